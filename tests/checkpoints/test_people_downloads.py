"""What downloads leave: the hub's cache, links, pieces, broken files; the cache of encoders."""

import json
import os
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

import weights
from tests.oracles import folders as make
from tests.oracles.folders import error_of
from tests.oracles.people import FLUX, both, inspect
from tests.oracles.wan_files import same

FILE = "flux1-small.safetensors"


# ------------------------------------------------------------------------- the hub's cache, shards


def cached_hub(folder, root, hashes=("abc",)):
    """A folder as the hub's cache has it: links from snapshots/HASH to blobs."""
    for commit in hashes:
        for n, file in enumerate(sorted(file for file in folder.rglob("*") if file.is_file())):
            blob = root / f"blobs/{n}"
            link = root / "snapshots" / commit / file.relative_to(folder)
            for path in (blob, link):
                path.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(file, blob)
            if not link.is_symlink():
                link.symlink_to(os.path.relpath(blob, link.parent))
    return root


def test_the_folder_of_the_hubs_cache(folder, tmp_path, capsys):
    root = cached_hub(folder, tmp_path / "models--black-forest-labs--FLUX.1-dev")
    for path in (root, root / "snapshots/abc"):
        assert weights.load_backbone("flux", path).width == 32
        status, told = inspect(capsys, path)
        assert status == 0 and "a whole backbone" in told
    cached_hub(folder, root, ("abc", "def"))
    message = both(capsys, "flux", root)
    assert "abc" in message and "def" in message
    (root / "refs").mkdir()
    (root / "refs/main").write_text("def")
    assert weights.load_backbone("flux", root).width == 32


@pytest.mark.parametrize(
    "part",
    [
        "ae.safetensors",
        "text_encoder/model.safetensors",
        "tokenizer/merges.txt",
        "tokenizer/vocab.json",
    ],
)
def test_a_broken_link_is_told_with_what_to_do(folder, tmp_path, capsys, part):
    root = cached_hub(folder, tmp_path / "models--x")
    link = root / "snapshots/abc" / part
    link.resolve().unlink()
    message = error_of(weights.load_backbone, "flux", root)
    assert str(link) in message and "not finished" in message


def test_pieces_without_an_index_and_an_index_without_shards(tmp_path):
    state = FLUX
    for n in range(4):
        part = {name: state[name] for name in list(state)[n::4]}
        (tmp_path / "pieces").mkdir(exist_ok=True)
        save_file(part, tmp_path / f"pieces/block_{n}.safetensors")
    message = error_of(weights.load_flux, tmp_path / "pieces")
    assert "in 4 pieces" in message and "index" in message
    save_file(state, tmp_path / "model.safetensors")
    index = {"weight_map": dict.fromkeys(state, "model-00001-of-00002.safetensors")}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    assert same(weights.load_flux(tmp_path, make.FLUX), state)
    index["weight_map"]["img_in.weight"] = ["a list"]
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    assert "not an index" in error_of(weights.load_flux, tmp_path)


# --------------------------------------------------------------------------------- broken downloads


def test_an_unfinished_download_is_noticed(folder, capsys):
    (folder / f"{FILE}.aria2").write_bytes(b"")
    message = both(capsys, "flux", folder)
    assert f"{FILE}.aria2" in message and "not finished" in message


@pytest.mark.parametrize("half", ["second", "first", "one"])
def test_values_that_were_never_written_are_noticed(folder, capsys, half):
    whole = (folder / FILE).read_bytes()
    start, middle = 8 + int.from_bytes(whole[:8], "little"), len(whole) // 2
    if half == "one":
        state = load_file(folder / FILE)
        state["txt_in.weight"].zero_()
        save_file(state, folder / FILE)
    elif half == "second":
        (folder / FILE).write_bytes(whole[:middle] + bytes(len(whole) - middle))
    else:
        (folder / FILE).write_bytes(whole[:start] + bytes(middle - start) + whole[middle:])
    assert weights.main(["inspect", str(folder / FILE)]) == 0
    assert weights.main(["inspect", str(folder / FILE), "--check-values"]) == 2
    error = capsys.readouterr().err
    assert "is all zeros" in error and FILE in error and error.count("\n") == 1


@pytest.mark.parametrize("name", ["flux", "wan"])
def test_the_bundled_models_have_no_such_values(name, capsys):
    assert weights.main(["inspect", str(weights.TINY / name), "--check-values"]) == 0
    assert capsys.readouterr().out.count("all values are finite") == (4 if name == "flux" else 3)


# ---------------------------------------------------------------------------------------- the cache


def test_an_edited_config_beside_a_flat_encoder_is_computed_again(folder):
    first = weights.load_backbone("flux", folder)
    (folder / "text_encoder_2/model.safetensors").rename(folder / "t5xxl_fp32.safetensors")
    shutil.copy(folder / "text_encoder_2/config.json", folder / "config.json")
    shutil.rmtree(folder / "text_encoder_2")
    assert torch.equal(weights.load_backbone("flux", folder).context, first.context)
    told = json.loads((folder / "config.json").read_text())
    told["relative_attention_max_distance"] = 3
    (folder / "config.json").write_text(json.dumps(told))
    assert not torch.equal(weights.load_backbone("flux", folder).context, first.context)
