"""Tokenizers as people have them: brought by other files, spelled anew, with odd settings."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import CLIPTokenizer

import weights
from tests.oracles.folders import error_of, write_folder
from tests.oracles.wan_files import write_wan
from tinybridge.text.tokenizers import ClipTokens


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.mark.parametrize("name", ["model_max_length", "extra_ids"])
@pytest.mark.parametrize("value", [None, [1], float("inf"), float("nan"), -5, 2.5, "77", {}, True])
def test_a_tokenizers_settings_are_checked(tmp_path, name, value):
    folder = write_folder(tmp_path / "flux")
    file = folder / "tokenizer_2/tokenizer_config.json"
    file.write_text(json.dumps({name: value}))
    message = error_of(lambda: weights.load_backbone("flux", folder, "meta"))
    assert message.startswith(f"{file}: {name} is {value!r}")


def test_no_rows_are_refused_and_no_limit_is_none(tmp_path):
    folder = write_folder(tmp_path / "flux")
    file = folder / "tokenizer_2/tokenizer_config.json"
    file.write_text(json.dumps({"model_max_length": 0}))
    assert "model_max_length is 0" in error_of(lambda: weights.load_backbone("flux", folder))
    file.write_text(json.dumps({"extra_ids": 10**9}))
    assert "extra_ids is 1000000000" in error_of(lambda: weights.load_backbone("flux", folder))
    for limit in (int(1e30), 1e30):
        file.write_text(json.dumps({"model_max_length": limit}))
        assert weights.load_backbone("flux", folder, "meta", length=40).length == 40


def test_umt5s_file_may_bring_its_tokenizer(tmp_path, capsys):
    folder = write_wan(tmp_path / "wan")
    want = weights.load_backbone("wan", folder, text="red hills").context
    spiece = (folder / "tokenizer/spiece.model").read_bytes()
    state = load_file(folder / "text_encoder/model.safetensors")
    config = json.loads((folder / "text_encoder/config.json").read_text())
    shutil.rmtree(folder / "text_encoder")
    shutil.rmtree(folder / "tokenizer")
    state["spiece_model"] = torch.tensor(list(spiece), dtype=torch.uint8)
    told = {"config": json.dumps(config)}
    save_file(state, folder / "umt5_xxl_fp16.safetensors", told)
    found = weights.load_backbone("wan", folder, text="red hills", length=want.shape[1]).context
    assert torch.equal(found, want)
    assert weights.main(["inspect", str(folder)]) == 0
    assert "a whole backbone" in capsys.readouterr().out


@pytest.mark.parametrize("pairs", [str, list])
def test_clips_tokenizer_json_alone_is_enough(tmp_path, pairs):
    """As transformers 5 writes it, and as earlier ones spelled the merges."""
    folder = write_folder(tmp_path / "flux") / "tokenizer"
    want = ClipTokens(folder)
    merges = [tuple(line.split()) for line in (folder / "merges.txt").read_text().split("\n")[1:-1]]
    theirs = CLIPTokenizer(vocab=json.loads((folder / "vocab.json").read_text()), merges=merges)
    for file in folder.iterdir():
        file.unlink()
    theirs.save_pretrained(folder)
    file = folder / "tokenizer.json"
    told = json.loads(file.read_text())
    told["model"]["merges"] = [list(m) if pairs is list else " ".join(m) for m in merges]
    file.write_text(json.dumps(told))
    assert not (folder / "vocab.json").exists()
    for text in ("red", "a photo of red hills", "", "it's 3 o'clock"):
        assert torch.equal(ClipTokens(folder)([text]), want([text]))
    assert weights.load_backbone("flux", folder.parent).pooled is not None
    file.write_text('{"model": {}}')
    assert error_of(lambda: weights.load_backbone("flux", folder.parent)).startswith(str(file))


@pytest.mark.parametrize("name", ["tokenizer/vocab.json", "tokenizer/merges.txt",
                                  "tokenizer_2/spiece.model", "tokenizer_2/tokenizer_config.json",
                                  "text_encoder/config.json"])  # fmt: skip
@pytest.mark.parametrize("text", ["version https://git-lfs.github.com/spec/v1\n", "\n<html>"])
def test_pointers_and_pages_are_named_wherever_a_file_should_be(tmp_path, name, text):
    folder = write_folder(tmp_path / "flux")
    (folder / name).write_text(text)
    message = error_of(lambda: weights.load_backbone("flux", folder))
    assert str(folder / name) in message
    assert ("git-lfs pointer" if "git-lfs" in text else "web page") in message


def test_a_spiece_model_that_does_not_read_is_named(tmp_path, capsys):
    folder = write_wan(tmp_path / "wan")
    (folder / "tokenizer/spiece.model").write_bytes(b"")
    told = "spiece.model: not a readable sentencepiece model"
    assert told in error_of(lambda: weights.load_backbone("wan", folder))
    assert weights.main(["inspect", str(folder)]) == 2
    assert told in capsys.readouterr().err


def test_t5s_tokenizer_json_alone_is_told_to_be_too_little(tmp_path):
    folder = write_folder(tmp_path / "flux")
    (folder / "tokenizer_2/spiece.model").unlink()
    message = error_of(lambda: weights.load_backbone("flux", folder))
    assert "spiece.model" in message and "tokenizer.json" not in message
    (folder / "tokenizer_2/tokenizer.json").write_text("{}")
    message = error_of(lambda: weights.load_backbone("flux", folder))
    assert "(tokenizer_2/spiece.model), which tokenizer.json does not hold" in message
    assert '--include "tokenizer_2/*"' in message
