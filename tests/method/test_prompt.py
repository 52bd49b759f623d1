"""Prompt files: ours and the authors', and everything that may be wrong with one."""

import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tests.oracles.prompts import RELEASED, sized, write_authors, write_wan
from tinybridge.prompt import Prompt, Tokens, agreed


def small(seed=0, **meta):
    g = torch.Generator().manual_seed(seed)
    return Prompt(torch.randn(5, 8, generator=g), torch.randn(3, generator=g), meta)


def test_round_trip_is_bit_exact_and_keeps_the_metadata(tmp_path):
    prompt = small(backbone="flux", bridge="desired", t0="0.4")
    prompt.save(tmp_path / "a.safetensors")
    back = Prompt.load(tmp_path / "a.safetensors")
    assert torch.equal(back.residual, prompt.residual) and torch.equal(back.gates, prompt.gates)
    assert {k: back.meta[k] for k in prompt.meta} == prompt.meta
    assert [p.name for p in tmp_path.iterdir()] == ["a.safetensors"]


def test_it_is_two_float32_parameters():
    prompt = Prompt(torch.zeros(5, 8, dtype=torch.float16), torch.ones(3, dtype=torch.float64))
    assert {k: v.dtype for k, v in prompt.named_parameters()} == {
        "residual": torch.float32, "gates": torch.float32,
    }  # fmt: skip
    assert all(p.requires_grad for p in prompt.parameters())


def test_init_is_seeded_and_of_the_stated_size():
    a, b, c = (Prompt.init(64, 96, 7, seed, std=0.02, gate=1.0) for seed in (0, 0, 1))
    assert torch.equal(a.residual, b.residual) and not torch.equal(a.residual, c.residual)
    assert a.residual.shape == (64, 96) and (a.gates == 1).all() and a.gates.shape == (7,)
    assert a.residual.std().item() == pytest.approx(0.02, rel=0.05)


def test_the_authors_format(tmp_path):
    file = write_authors(tmp_path / "p.pt", torch.randn(6, 4), torch.randn(57))
    prompt = Prompt.load(file)
    assert prompt.residual.shape == (6, 4) and prompt.gates.shape == (57,)
    assert prompt.meta["backbone"] == "flux" and prompt.meta["bridge"] == "desired"


FACTS = {  # of the residual: deviation, norm; of the gates: the first, the last
    "imitated": (0.0932, 54.92, -0.1218, 0.7739),
    "wan_haze": (0.0932, 54.92, -0.1218, 0.7739),
    "wan_snow": (0.0899, 52.98, 0.1137, -0.7226),
}


@pytest.mark.parametrize("released", [None, *RELEASED], ids=lambda f: str(f and f.stem))
def test_the_authors_released_prompts(tmp_path, released):
    file = released or write_wan(tmp_path / "imitated.pt")
    prompt = Prompt.load(file)
    std, norm, first, last = FACTS[file.stem]
    sized("wan", 226, 1536, 30).check(prompt)
    assert prompt.residual.std().item() == pytest.approx(std, abs=6e-5)
    assert prompt.residual.norm().item() == pytest.approx(norm, abs=6e-3)
    assert prompt.gates[0].item() == pytest.approx(first, abs=6e-5)
    assert prompt.gates[-1].item() == pytest.approx(last, abs=6e-5)


@pytest.mark.parametrize("fits", [("wan", 5, 8, 3), ("flux", 6, 8, 3), ("flux", 5, 9, 3),
                                  ("flux", 5, 8, 4)])  # fmt: skip
def test_a_prompt_for_another_backbone_is_refused_naming_both_sides(fits):
    prompt = small(backbone="flux")
    sized("flux", 5, 8, 3).check(prompt)
    sized("flux", 5, 8, 3).check(small())  # whose metadata names no backbone
    with pytest.raises(ValueError) as error:
        sized(*fits).check(prompt)
    assert "flux with 5 rows of width 8 and 3 gates" in str(error.value)
    assert "{} with {} rows of width {} and {} gates".format(*fits) in str(error.value)


def one_line(error, path):
    message = str(error.value)
    assert str(path) in message and "\n" not in message
    return message


@pytest.mark.parametrize("keep", [0, 4, 60, 150])
@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_a_truncated_file_is_one_clear_line(tmp_path, keep, suffix):
    whole = tmp_path / f"whole{suffix}"
    if suffix == ".pt":
        write_authors(whole, torch.randn(6, 4), torch.randn(3))
    else:
        small().save(whole)
    path = tmp_path / f"cut{suffix}"
    path.write_bytes(whole.read_bytes()[:keep])
    with pytest.raises(ValueError) as error:
        Prompt.load(path)
    one_line(error, path)


def test_values_that_are_not_finite_are_refused(tmp_path):
    for where, value in (("residual", float("nan")), ("gates", float("inf"))):
        tensors = {"residual": torch.zeros(5, 8), "gates": torch.ones(3)}
        tensors[where][0] = value
        path = tmp_path / f"{where}.safetensors"
        save_file(tensors, path)
        with pytest.raises(ValueError) as error:
            Prompt.load(path)
        assert where in one_line(error, path)


class Malicious:
    def __reduce__(self):
        return (open, ("executed", "w"))


@pytest.mark.parametrize("write", [lambda o, f: pickle.dump(o, f), torch.save])
def test_pickled_code_is_refused_and_not_run(tmp_path, monkeypatch, write):
    monkeypatch.chdir(tmp_path)
    with open("evil.pt", "wb") as file:
        write({"alphas": Malicious()}, file)
    with pytest.raises(ValueError) as error:
        Prompt.load("evil.pt")
    one_line(error, "evil.pt")
    assert not Path("executed").exists()


def test_files_that_are_no_prompt(tmp_path):
    save_file({"weight": torch.zeros(2)}, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match="weight"):
        Prompt.load(tmp_path / "other.safetensors")
    torch.save({"weight": torch.zeros(2)}, tmp_path / "other.pt")
    with pytest.raises(ValueError, match="deep_prompt_bank"):
        Prompt.load(tmp_path / "other.pt")
    save_file({"residual": torch.zeros(2), "gates": torch.ones(3)}, tmp_path / "flat.safetensors")
    with pytest.raises(ValueError, match=r"\[L, D\]"):
        Prompt.load(tmp_path / "flat.safetensors")
    with pytest.raises(FileNotFoundError, match="nowhere"):
        Prompt.load(tmp_path / "nowhere.safetensors")


def test_saving_where_nothing_can_be_written_leaves_nothing(tmp_path):
    (tmp_path / "file").write_text("in the folder's place")
    with pytest.raises(OSError, match="cannot be written"):
        small().save(tmp_path / "file" / "p.safetensors")
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


# -------------------------------------------------------------------------------- several prompts


def said(space: str = "embedding", **meta: str) -> Prompt | Tokens:
    if space == "token":
        return Tokens(torch.zeros(5, 8), meta)
    return Prompt(torch.zeros(5, 8), torch.ones(3), meta)


def test_prompts_agree_on_what_they_were_trained_with():
    assert agreed([said()]) == ("desired", 0.4, True, "embedding")
    naive = {"bridge": "naive", "t0": "0.2", "grid": "false"}
    assert agreed([said(**naive, seed="1"), said(**naive, seed="2")]) == (
        "naive",
        0.2,
        False,
        "embedding",
    )
    assert agreed([said("token")]).space == "token"


@pytest.mark.parametrize("key, value", [("bridge", "ddbm"), ("t0", "0.3"), ("grid", "false")])
def test_prompts_that_differ_are_named(key, value):
    usual = {"bridge": "desired", "t0": "0.4", "grid": "true"}[key]
    message = f"c.pt was trained with {key} {value}, a.pt with {usual}: only prompts that share it"
    with pytest.raises(ValueError, match=message):
        agreed([said(), said(), said(**{key: value})], ["a.pt", "b.pt", "c.pt"])
    with pytest.raises(ValueError, match=f"prompt 2 was trained with {key}"):
        agreed([said(), said(**{key: value})])


def test_spaces_and_odd_times_are_named():
    with pytest.raises(ValueError, match="prompt 2 was trained with space token, prompt 1 with"):
        agreed([said(), said("token")])
    with pytest.raises(ValueError, match="a.pt: its t0 is 'early', a number between 0 and 1"):
        agreed([said(t0="early")], ["a.pt"])


def test_a_saved_prompt_can_be_read_by_others(tmp_path):
    """With the rights of any new file, and with nothing left beside it."""
    Prompt.init(2, 3, 1, seed=0).save(tmp_path / "p.safetensors")
    (tmp_path / "new").touch()
    rights = [(tmp_path / name).stat().st_mode for name in ("p.safetensors", "new")]
    assert rights[0] == rights[1]
    assert sorted(file.name for file in tmp_path.iterdir()) == ["new", "p.safetensors"]
