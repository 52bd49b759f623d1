"""Text conditioning as a file: what is in it, folders without encoders, what is refused and how."""

import shutil
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import weights
from tests.oracles.folders import error_of, write_folder
from tests.oracles.wan_files import LENGTH, write_wan
from tinybridge.checkpoints import conditioning
from tinybridge.checkpoints.conditioning_files import narrow, read_conditioning
from tinybridge.prompt import Prompt

TEXT = ("text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2")


def main(capsys, *arguments: object) -> tuple[int, str, str]:
    status = weights.main([*map(str, arguments)])
    told = capsys.readouterr()
    return status, told.out, told.err


def refused(capsys, *arguments: object) -> str:
    """The one line of a command that ends with 2."""
    status, out, err = main(capsys, *arguments)
    assert status == 2 and err.startswith("error: ") and err.count("\n") == 1, (out, err)
    return err


def without_encoders(folder: Path) -> Path:
    bare = folder.with_name(f"{folder.name}-bare")
    shutil.copytree(folder, bare, ignore=shutil.ignore_patterns(*TEXT))
    return bare


def metadata(file: Path) -> dict[str, str]:
    with safe_open(file, "pt") as stored:
        return stored.metadata()


def altered(file: Path, to: Path, drop: str = "", **changes: str) -> Path:
    """A copy with other metadata or without one of it."""
    meta = metadata(file) | changes
    meta.pop(drop, None)
    save_file(load_file(file), to, meta)
    return to


@pytest.fixture(params=("flux", "wan"))
def family(request, tmp_path) -> tuple[str, Path]:
    write = {"flux": write_folder, "wan": write_wan}[request.param]
    return request.param, write(tmp_path / request.param)


@pytest.mark.parametrize("text", ("", "red hills with haze"))
def test_a_folder_without_encoders_is_told_the_same_bit_for_bit(
    family, text, tmp_path, capsys, monkeypatch
):
    name, folder = family
    whole = weights.load_backbone(name, folder, text=text)
    file = tmp_path / "told.safetensors"
    status, out, _ = main(capsys, "conditioning", folder, "--out", file, "--text", text)
    assert status == 0 and f"{name}: {whole.length} rows" in out and repr(text) in out
    bare = without_encoders(folder)
    assert "missing" in error_of(weights.load_backbone, name, bare)

    def never(*given):
        raise AssertionError("an encoder was asked")

    monkeypatch.setattr(conditioning, "cached", never)
    for dtype in (None, torch.bfloat16):
        told = weights.load_backbone(name, bare, dtype=dtype, conditioning=file)
        assert torch.equal(told.context, whole.context.to(told.dtype))
        assert told.context.dtype == told.dtype and told.guidance == whole.guidance
        assert (told.pooled is None) == (whole.pooled is None) == (name == "wan")
        assert told.pooled is None or torch.equal(told.pooled, whole.pooled.to(told.dtype))
    headers = weights.load_backbone(name, bare, "meta", conditioning=file)
    assert headers.context.is_meta and headers.context.shape == whole.context.shape
    assert torch.equal(
        weights.load_backbone(name, bare, text=text, conditioning=file).context, whole.context
    )


def test_inspect_says_that_the_folder_is_whole_and_what_the_file_is(family, tmp_path, capsys):
    name, folder = family
    file = tmp_path / "null.safetensors"
    assert main(capsys, "conditioning", folder, "--out", file)[0] == 0
    bare = without_encoders(folder)
    told = main(capsys, "inspect", bare)[1]
    assert "missing" in told and "--conditioning" in told
    status, told, _ = main(capsys, "inspect", bare, "--conditioning", file)
    assert status == 0 and f"{bare}: a whole backbone" in told and "missing" not in told
    encoder = {"flux": "model.safetensors", "wan": "model.safetensors"}[name]
    size = next(folder.glob(f"text_encoder*/{encoder}")).stat().st_size
    told = main(capsys, "inspect", file)[1]
    assert told.count("\n") == 1 and f"text conditioning of {name}" in told and "text ''" in told
    assert encoder in told and str(size) in metadata(file)["encoder"]
    # lying in the folder it changes nothing
    shutil.copy(file, bare / "null.safetensors")
    assert "a whole backbone" in main(capsys, "inspect", bare, "--conditioning", file)[1]


def test_the_encoders_alone_are_enough_to_write_it(family, tmp_path, capsys):
    name, folder = family
    first, second = tmp_path / "1.safetensors", tmp_path / "2.safetensors"
    weights.save_conditioning(folder, first)
    for file in (*folder.glob("*.safetensors"), *folder.glob("vae"), *folder.glob("transformer")):
        file.unlink()
    weights.save_conditioning(folder, second)
    one, two = load_file(first), load_file(second)
    assert one.keys() == two.keys() and all(torch.equal(one[key], two[key]) for key in one)
    assert metadata(first) == metadata(second)
    shutil.rmtree(folder / "tokenizer")
    told = refused(capsys, "conditioning", folder, "--out", tmp_path / "3.safetensors")
    assert "missing" in told and "(or name" not in told
    assert not (tmp_path / "3.safetensors").exists()


def test_wan_keeps_true_rows_alone_and_halves_what_bfloat16_holds(tmp_path):
    folder = write_wan(tmp_path / "wan")
    file = tmp_path / "null.safetensors"
    weights.save_conditioning(folder, file)
    rows = load_file(file)["context"]
    assert rows.shape == (1, 1, 24) and metadata(file)["length"] == str(LENGTH)
    context = read_conditioning(file).context
    assert context.shape == (1, LENGTH, 24) and not context[:, 1:].any()
    exact = torch.randn(3, 4).bfloat16().float()
    assert narrow(exact).dtype == torch.bfloat16 and torch.equal(narrow(exact).float(), exact)
    assert narrow(exact + 2**-12).dtype == torch.float32


def test_what_does_not_fit_is_one_line(tmp_path, capsys):
    wan, flux = write_wan(tmp_path / "wan"), write_folder(tmp_path / "flux")
    file, other = tmp_path / "wan.safetensors", tmp_path / "flux.safetensors"
    weights.save_conditioning(wan, file)
    weights.save_conditioning(flux, other)
    bare = without_encoders(wan)

    def load(given: Path, **options) -> str:
        def run() -> None:
            weights.load_backbone("wan", bare, "meta", conditioning=given, **options)

        told = error_of(run)
        assert str(given) in told
        return told

    assert "of flux, expected wan's" in load(other)
    assert "expected wan's" in refused(capsys, "inspect", bare, "--conditioning", other)
    tensors, meta = load_file(file), metadata(file)
    wide = tmp_path / "wide.safetensors"
    save_file({"context": torch.ones(1, 1, 25)}, wide, meta)
    assert "width 25, but the transformer takes 24" in load(wide)
    long = altered(file, tmp_path / "long.safetensors", length="300")
    assert "300 rows of text, expected at most 226" in load(long)
    assert "expected 512: make it with --length 512" in load(file, length=512)
    assert "made of the text ''" in load(file, text="fog")
    assert "leave this out" in load(file, keep_encoder=True)
    encoder = wan / "text_encoder"
    assert f"{encoder}: named as umt5" in error_of(
        lambda: weights.load_backbone("wan", bare, conditioning=file, parts={"umt5": encoder})
    )
    prompt = tmp_path / "prompt.safetensors"
    Prompt.init(LENGTH, 8, 2, 0).save(prompt)
    assert "found a prompt" in load(prompt)
    assert "found another file" in load(next(wan.glob("*.safetensors")))
    assert "no such file" in load(tmp_path / "none.safetensors")
    spoilt = tmp_path / "spoilt.safetensors"
    spoilt.write_bytes(file.read_bytes()[:-1])
    assert "not a whole safetensors file" in load(spoilt)
    spoilt.write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    assert "git-lfs" in load(spoilt)
    save_file({"context": tensors["context"] * torch.nan}, spoilt, meta)
    assert "NaN" in load(spoilt)
    for key in ("backbone", "text", "length", "encoder", "version"):
        assert f"without its {key}" in load(altered(file, spoilt, drop=key))
    for length in ("0", "-1", "x", "9" * 30):
        assert "is no conditioning of length" in load(altered(file, spoilt, length=length))
    for shape in ((24,), (2, 1, 24), (1, 0, 24)):
        save_file({"context": torch.ones(shape)}, spoilt, meta)
        assert "is no conditioning" in load(spoilt)
    save_file(tensors | {"more": torch.ones(1)}, spoilt, meta)
    assert "with the tensors" in load(spoilt)
    assert "with the tensors" in load(altered(other, spoilt, backbone="wan"))


def test_a_summary_of_another_width_is_refused(tmp_path):
    folder, file = write_folder(tmp_path / "flux"), tmp_path / "told.safetensors"
    weights.save_conditioning(folder, file)
    tensors = load_file(file) | {"pooled": torch.ones(1, 65)}
    save_file(tensors, tmp_path / "wide.safetensors", metadata(file))
    told = error_of(
        lambda: weights.load_backbone("flux", folder, conditioning=tmp_path / "wide.safetensors")
    )
    assert "summary of width 65, but the transformer takes 64" in told


def test_nothing_is_replaced_and_nothing_half_written(tmp_path, capsys):
    folder, file = write_wan(tmp_path / "wan"), tmp_path / "null.safetensors"
    file.write_bytes(b"mine")
    assert "is there already" in refused(capsys, "conditioning", folder, "--out", file)
    assert file.read_bytes() == b"mine"
    told = refused(capsys, "conditioning", folder, "--out", tmp_path / "no/null.safetensors")
    assert "no folder" in told
    told = refused(capsys, "conditioning", folder, "--out", tmp_path / "a", "--length", 0)
    assert "--length 0" in told
    (tmp_path / "empty").mkdir()
    told = refused(capsys, "conditioning", tmp_path / "empty", "--out", tmp_path / "a")
    assert "no text encoder" in told
    assert {file.name for file in tmp_path.iterdir()} == {"empty", "null.safetensors", "wan"}
