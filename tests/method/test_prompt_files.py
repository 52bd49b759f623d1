"""Prompt files by their content: what people have under such names, and odd metadata."""

import argparse
import json
import os
import pickle
import resource
import signal
import struct
import tarfile
import zipfile
from pathlib import Path

import numpy
import pytest
import torch
from safetensors.torch import save_file

import sample
import weights
from tests.oracles.prompts import write_authors
from tinybridge.data import pictures
from tinybridge.prompt import Prompt, Tokens, load

NAMES = ["p.safetensors", "p.pt", "p.PT", "p.bin", "p.ckpt", "p", "p.json"]
RESIDUAL = torch.arange(12.0).view(4, 3) / 8
GATES = torch.tensor([0.5, -0.25])


def refused(file: Path) -> str:
    """The message: one printable line that begins with the file and gives no bad advice."""
    with pytest.raises((ValueError, OSError)) as caught:
        load(file)
    message = str(caught.value)
    assert message.startswith(f"{file}: ") and message.isprintable() and len(message) < 400
    for words in ("weights_only", "Re-running", "trust", "GLOBAL"):
        assert words not in message
    return message


def authors(**more) -> dict:
    bank = {"prompts": RESIDUAL[None]}
    return {"backend": "wan", "deep_prompt_bank": bank, "alphas": list(GATES), **more}


# ------------------------------------------------------------------------------- told by content


@pytest.mark.parametrize("name", NAMES)
def test_a_prompt_is_told_by_its_content(tmp_path, name):
    file = tmp_path / name
    for write in (
        Prompt(RESIDUAL, GATES).save,
        lambda file: write_authors(file, RESIDUAL, GATES),
        lambda file: torch.save(authors(), file, _use_new_zipfile_serialization=False),
    ):
        write(file)
        found = Prompt.load(file)
        assert torch.equal(found.residual, RESIDUAL) and torch.equal(found.gates, GATES)


@pytest.mark.parametrize("kind", ["bfloat16", "float16", "float64"])
def test_the_authors_format_in_other_dtypes_and_shapes(tmp_path, kind):
    file, dtype = tmp_path / "p.pt", getattr(torch, kind)
    gates = GATES.to(dtype)
    for alphas in (gates, gates[:, None], list(gates), GATES.tolist()):
        for residual in (RESIDUAL[None].to(dtype), RESIDUAL.to(dtype)):
            bank = {"prompts": residual}
            torch.save(authors(deep_prompt_bank=bank, alphas=alphas), file)
            found = load(file)
            assert torch.equal(found.residual, RESIDUAL) and torch.equal(found.gates, GATES)
            assert found.gates.dtype == torch.float32


def test_a_header_of_any_length_is_no_impostor(tmp_path):
    """Its length comes first, whose bytes may be those of a pickle or a web page."""
    file, firsts = tmp_path / "p.safetensors", set()
    for more in range(0, 256, 8):
        header = {
            "gates": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]},
            "residual": {"dtype": "F32", "shape": [4, 3], "data_offsets": [8, 56]},
        }
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 8 + more)
        values = GATES.numpy().tobytes() + RESIDUAL.numpy().tobytes()
        file.write_bytes(struct.pack("<Q", len(text)) + text + values)
        firsts.add(file.read_bytes()[0])
        assert torch.equal(load(file).residual, RESIDUAL)
    assert {0x80, 0x50, 0x20} <= firsts  # of a pickle, of a zip archive, a space


# ------------------------------------------------------------------------------------- impostors


class Runs:
    """What a pickle may do to whoever opens it."""

    def __reduce__(self):
        return (open, ("executed", "w"))


def pickled(**fields):
    return lambda file: file.write_bytes(pickle.dumps(authors(**fields)))


def saved(legacy: bool = False, **fields):
    return lambda file: torch.save(
        authors(**fields), file, _use_new_zipfile_serialization=not legacy
    )


def archive(file: Path) -> None:
    with zipfile.ZipFile(file, "w") as stream:
        stream.writestr("notes.txt", "none")


def tar(file: Path) -> None:
    with tarfile.open(file, "w") as stream:
        stream.add(__file__, "storages")


def text(content: str):
    return lambda file: file.write_text(content)


def cut(file: Path) -> None:
    write_authors(file, RESIDUAL, GATES)
    file.write_bytes(file.read_bytes()[:-40])


POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 1396828\n"
DAMAGED = "damaged or unknown PyTorch file"
NEITHER = "not a readable safetensors file"
IMPOSTORS = {  # how to write it, words of the message
    "pointer": (text(POINTER), "a git-lfs pointer, not the prompt: run git lfs pull"),
    "web page": (text("\n <!DOCTYPE html>\n<html></html>"), "a web page"),
    "xml": (text("<?xml version='1.0'?><Error>AccessDenied</Error>"), "a web page"),
    "gguf": (text("GGUF\x03\x00\x00\x00 and more"), "a GGUF file"),
    "empty": (text(""), NEITHER),
    "text": (text("not found\n"), NEITHER),
    "json": (text('{"error": "Repository not found"}'), NEITHER),
    "zeros": (lambda file: file.write_bytes(bytes(2000)), NEITHER),
    "pickle": (pickled(), "a pickle that"),
    "old pickle": (lambda file: file.write_bytes(pickle.dumps([1], protocol=0)), NEITHER),
    "pickled code": (pickled(more=Runs()), "a pickle that"),
    "code": (saved(more=Runs()), "asks for io.open"),
    "code, legacy": (saved(True, more=Runs()), "asks for io.open"),
    "numpy": (saved(lr=numpy.float64(0.1)), "asks for numpy"),
    "arguments": (saved(args=argparse.Namespace(lr=0.1)), "asks for argparse.Namespace"),
    "zip": (archive, DAMAGED),
    "tar": (tar, NEITHER),
    "cut": (cut, DAMAGED),
    "list": (lambda file: torch.save([1, 2], file), "no prompt of the authors"),
    "no gates": (saved(alphas=[]), "no prompt of the authors"),
    "gates of two sizes": (saved(alphas=[GATES, GATES[:1]]), "no prompt of the authors"),
    "a bank of 2": (
        saved(deep_prompt_bank={"prompts": torch.zeros(2, 4, 3)}),
        r"residual [2, 4, 3]",
    ),
}


@pytest.mark.parametrize("case", IMPOSTORS)
@pytest.mark.parametrize("name", ["p.pt", "p.safetensors"])
def test_what_is_no_prompt_is_named_and_not_run(tmp_path, monkeypatch, recwarn, name, case):
    monkeypatch.chdir(tmp_path)
    write, words = IMPOSTORS[case]
    write(tmp_path / name)
    assert words in refused(tmp_path / name)
    assert not Path("executed").exists() and not recwarn.list


def test_a_folder_is_told_and_names_from_files_are_printable(tmp_path):
    assert "a folder: name the file in it" in refused(tmp_path)
    file = tmp_path / "p.safetensors"
    save_file({"a\nb\x1b[1m": torch.zeros(2)}, file)
    assert "found a b [1m" in refused(file)


def test_a_name_that_is_not_utf_8_is_no_hindrance(tmp_path):
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xe9"))
    folder.mkdir()
    Prompt(RESIDUAL, GATES, {"t0": "0.2"}).save(folder / "p.safetensors")
    back = load(folder / "p.safetensors")
    assert torch.equal(back.residual, RESIDUAL) and back.meta["t0"] == "0.2"


@pytest.mark.parametrize("start", [b"PK\x03\x04", struct.pack("<Q", 100) + b"{"])
def test_a_whole_model_in_the_place_of_a_prompt_is_not_read(tmp_path, start):
    file = tmp_path / "model.pt"
    with file.open("wb") as stream:
        stream.write(start)
        stream.truncate(1 << 31)
    assert "expected a prompt of some MB, found 2,147,483,648 bytes" in refused(file)


@pytest.mark.parametrize("dtype", [torch.int32, torch.bool, torch.complex64])
def test_other_numbers_are_refused(tmp_path, dtype):
    file = tmp_path / "p.safetensors"
    for name in ("residual", "gates"):
        tensors = {"residual": RESIDUAL, "gates": GATES}
        save_file(tensors | {name: tensors[name].to(dtype)}, file)
        assert f"{name} of {dtype}: floating point is expected" in refused(file)
    with pytest.raises(ValueError, match="tokens of torch"):
        Tokens(torch.zeros(2, 2).to(dtype))
    torch.save(authors(alphas=[1, 2]), file)
    assert "gates of torch.int64" in refused(file)


def test_float64_beyond_the_range_of_float32_is_not_finite():
    with pytest.raises(ValueError, match="1 NaN or infinite values in its gates"):
        Prompt(RESIDUAL, torch.tensor([1e300, 0.0], dtype=torch.float64))


# -------------------------------------------------------------------------------------- metadata

ODD = [("t0", value) for value in ("abc", "", "nan", "inf", "0", "1", "-0.4", "1.5", "0.4x", "[0]")]
ODD += [("grid", value) for value in ("True", "1", "yes", "", "none", "false ")]


@pytest.mark.parametrize("key, value", ODD)
@pytest.mark.parametrize("space", ["embedding", "token"])
def test_metadata_that_cannot_be_is_refused_with_the_files_name(tmp_path, key, value, space):
    meta = {"bridge": "desired", "t0": "0.4", "grid": "true", key: value}
    prompt = Prompt(RESIDUAL, GATES, meta) if space == "embedding" else Tokens(RESIDUAL, meta)
    prompt.save(tmp_path / "p.safetensors")
    assert f"its {key} is {value!r}" in refused(tmp_path / "p.safetensors")


def test_metadata_that_is_never_read_may_be_anything(tmp_path):
    meta = {"steps": "-1", "seed": "\n", "version": "", "batch": "NaN", "note": "\x1b[1m"}
    Prompt(RESIDUAL, GATES, meta).save(tmp_path / "p.safetensors")
    assert meta.items() <= load(tmp_path / "p.safetensors").meta.items()


@pytest.mark.parametrize("value", ["foo", "", "Desired", "\n"])
def test_a_bridge_that_is_not_known_is_told_before_the_model_is_loaded(
    tmp_path, monkeypatch, capsys, value
):
    file = tmp_path / "p.safetensors"
    Prompt(RESIDUAL, GATES, {"bridge": value}).save(file)
    pictures.write(tmp_path / "a.png", torch.rand(3, 16, 16))
    monkeypatch.setattr(weights, "load_backbone", None)
    flags = ["--backbone", "flux", "--prompt", file, "--input", tmp_path / "a.png"]
    assert sample.main([*map(str, flags), "--out", str(tmp_path / "out")]) == 2
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 1 and f"{file}: its bridge is {value!r}" in errors[0]
    assert not (tmp_path / "out").exists()


# ---------------------------------------------------------------------------------------- saving


def test_a_prompt_is_replaced_as_a_whole_or_not_at_all(tmp_path):
    file = tmp_path / "p.safetensors"
    Prompt(RESIDUAL, GATES).save(file)
    before = file.read_bytes()
    with file.open("rb") as stream:
        Prompt(2 * RESIDUAL, GATES).save(file)
        assert stream.read() == before  # the old file, not the new one half-written
    before = file.read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:  # as on a disk that is full
        resource.setrlimit(resource.RLIMIT_FSIZE, (200, hard))
        with pytest.raises(OSError, match="cannot be written") as caught:
            Prompt(torch.zeros(400, 300), GATES).save(file)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)
    assert str(caught.value).startswith(str(file)) and "\n" not in str(caught.value)
    assert file.read_bytes() == before
    assert [other.name for other in tmp_path.iterdir()] == [file.name]
