"""--offload and --weights-dtype through the command lines, on the bundled tiny models."""

import pytest
import torch
from safetensors.torch import load_file

import sample
import train
import weights
from tinybridge.checkpoints.fetched import Fetched
from tinybridge.data import pictures
from tinybridge.metrics import psnr
from tinybridge.prompt import Prompt

BITS = ["--weights-dtype", "float8"]


@pytest.fixture
def loaded(monkeypatch) -> list:
    """Every backbone that a script loads."""
    found, load = [], weights.load_backbone

    def kept(*args, **options):
        found.append(load(*args, **options))
        return found[-1]

    monkeypatch.setattr(weights, "load_backbone", kept)
    return found


def test_sample_restores_the_same_and_nearly_the_same(tmp_path, loaded):
    tiny = weights.load_backbone("flux")
    prompt = Prompt.init(tiny.length, tiny.width, tiny.blocks, 1, std=1.0)
    prompt.meta = {"backbone": "flux", "bridge": "desired", "t0": "0.4", "grid": "true"}
    prompt.save(tmp_path / "p.safetensors")
    noise = torch.rand(3, 32, 40, generator=torch.Generator().manual_seed(0))
    pictures.write(tmp_path / "a.png", noise)
    given = ["--prompt", tmp_path / "p.safetensors", "--input", tmp_path / "a.png", "--steps", 2]
    found = {}
    for name, flags in {"": [], "o": ["--offload"], "8": BITS, "8o": [*BITS, "--offload"]}.items():
        out = tmp_path / f"out{name}"
        line = ["--backbone", "flux", *given, "--out", out, *flags]
        assert sample.main([str(part) for part in line]) == 0
        found[name] = (out / "a.png").read_bytes()
        inside = loaded[-1].model.double_blocks[0].img_attn.qkv.weight
        assert isinstance(inside, Fetched) == bool(flags)
        assert not flags or (inside.scale is None, inside.place is None) == (
            "8" not in name,
            "o" not in name,
        )
    assert found[""] == found["o"] != found["8"] == found["8o"]
    whole, bits = (pictures.read(tmp_path / f"out{name}/a.png").pixels for name in ("", "8"))
    assert psnr(bits[None], whole[None]).item() > 25


@pytest.mark.parametrize("backbone", ["flux", "wan"])
def test_train_learns_the_same_and_resumes_with_the_same_weights(tmp_path, backbone, capsys):
    for side in ("degraded", "clean"):
        for k in range(2):
            pixels = torch.rand(3, 5, 32, 32, generator=torch.Generator().manual_seed(k))
            if backbone == "flux":
                pictures.write(tmp_path / f"pairs/{side}/{k}.png", pixels[:, 0])
                continue
            folder = tmp_path / f"pairs/{side}/{k}"
            for n, frame in enumerate(pixels.unbind(1)):
                pictures.write(folder / f"{n}.png", frame)
    base = ["--backbone", backbone, "--data", str(tmp_path / "pairs"), "--batch-size", "2"]
    base += ["--steps", "2", "--size", "32" if backbone == "flux" else "32x5"]
    runs = {"whole": [], "streams": ["--offload"], "bits": [*BITS, "--offload"]}
    learned = {}
    for name, flags in runs.items():
        assert train.main([*base, "--out", str(tmp_path / name), *flags]) == 0
        learned[name] = load_file(tmp_path / name / "prompt.safetensors")
    for key, value in learned["whole"].items():
        assert torch.equal(value, learned["streams"][key])
        assert not torch.equal(value, learned["bits"][key])
    capsys.readouterr()
    assert train.main([*base, "--out", str(tmp_path / "bits"), "--resume"]) == 2
    told = capsys.readouterr().err
    assert told.count("\n") == 1 and "--weights-dtype float8, now it is None" in told
    assert train.main([*base, "--out", str(tmp_path / "streams"), "--resume"]) == 0


def test_mistakes_are_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    line = ["--backbone", "flux", "--device", "mps", *BITS, "--out", str(tmp_path / "out")]
    assert train.main(line) == 2
    told = capsys.readouterr().err
    assert told.count("\n") == 1 and "no float8 on mps" in told
    with pytest.raises(SystemExit) as stop:
        train.main(["--backbone", "flux", "--weights-dtype", "int8"])
    assert stop.value.code == 2 and "--weights-dtype" in capsys.readouterr().err
