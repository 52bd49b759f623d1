"""What a person may get wrong with train.py: one line, exit status 2, nothing left behind."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import sample
import train
from tinybridge.data import pictures
from tinybridge.prompt import Prompt
from tinybridge.training import run_state
from tinybridge.training.machine import Terminated

ROOT = Path(__file__).parents[2]
BASE = ["--backbone", "flux", "--batch-size", "4", "--size", "32"]


@pytest.fixture(scope="module")
def pairs(tmp_path_factory) -> Path:
    """A folder of two pairs, 48x32 pixels."""
    folder = tmp_path_factory.mktemp("pairs")
    for side in ("degraded", "clean"):
        for name in "ab":
            pictures.write(folder / side / f"{name}.png", torch.zeros(3, 48, 32))
    return folder


def wrong(tmp_path: Path, pairs: Path) -> dict[str, tuple[list[object], str]]:
    """Flags that a person may get wrong, and what the line must say."""
    small, odd, broken, tiny = (tmp_path / k for k in ("small", "odd", "broken", "tiny"))
    for folder in (small, odd, broken, tiny):
        for side in ("degraded", "clean"):
            for name in ("a.png", "b.png"):
                pictures.write(folder / side / name, torch.zeros(3, 40, 40))
    pictures.write(small / "clean/a.png", torch.zeros(3, 40, 41))
    for side in ("degraded", "clean"):
        pictures.write(tiny / side / "b.png", torch.zeros(3, 31, 40))
    (odd / "clean/b.png").unlink()
    (broken / "degraded/a.png").write_bytes(b"\x89PNG\r\n")
    (tmp_path / "empty/degraded").mkdir(parents=True)
    (tmp_path / "empty/clean").mkdir()
    (tmp_path / "file").write_text("")
    one = [{"image_path": "a", "target_path": "b", "degradation": "haze"}]
    (tmp_path / "one.json").write_text(json.dumps(one))
    return {
        "no data": (["--data", tmp_path / "gone"], "gone: no such file or folder"),
        "no weights": (["--weights", tmp_path / "gone"], "gone: no such file or folder"),
        "empty weights": (["--weights", tmp_path / "empty"], "hf download"),
        "empty folder": (["--data", tmp_path / "empty"], "no pictures in it"),
        "no pairs": (["--data", tmp_path], "no folder degraded in it"),
        "no partner": (["--data", odd], "b.png: no file has its name"),
        "sizes differ": (["--data", small], "41x40: both must have one size"),
        "not a picture": (["--data", broken], "a.png: not a"),
        "too small": (["--data", tiny], "use --size 31"),
        "one pair": (["--data", tmp_path / "one.json"], "at least 2 are needed"),
        "no such rows": (
            ["--data", tmp_path / "one.json", "--degradation", "fog"],
            "no rows of fog",
        ),
        "no such kind": (["--degradation", "fog"], "choose one of haze, rain"),
        "out is a file": (["--data", pairs, "--out", tmp_path / "file"], "file"),
        "t0": (["--data", pairs, "--t0", 1.5], "t0 is 1.5"),
        "t low": (["--data", pairs, "--t-low", 0.5], "--t-low 0.5 must be above 0 and at most"),
        "steps": (["--data", pairs, "--steps", 0], "must be positive"),
        "rate": (["--data", pairs, "--lr", -1], "must be positive"),
        "no rate": (["--data", pairs, "--lr", 0], "--lr 0.0 must be positive"),
        "size": (["--data", pairs, "--size", "0"], "--size 0: expected a side in pixels"),
        "frames": (["--data", pairs, "--size", "32x9"], "expected a side in pixels, as 64"),
        "nothing to resume": (["--data", pairs, "--resume"], "nothing to resume"),
    }


CASES = [
    "no data", "no weights", "empty weights", "empty folder", "no pairs", "no partner",
    "sizes differ", "not a picture", "too small", "one pair", "no such rows", "no such kind",
    "out is a file", "t0", "t low", "steps", "rate", "no rate", "size", "frames",
    "nothing to resume",
]  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_mistakes_are_one_line_and_status_2(case, tmp_path, pairs, capsys):
    flags, words = wrong(tmp_path, pairs)[case]
    out = tmp_path / "out"
    flags = [*BASE, "--out", str(out), *map(str, flags)]
    assert train.main(flags) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
    assert len(lines) == 1 and words in lines[0]
    assert not out.exists() or not any(out.iterdir())


@pytest.mark.parametrize("device", ["cuda", "mps"])
@pytest.mark.parametrize("script", [train, sample], ids=["train", "sample"])
def test_a_device_that_is_not_there_is_one_line(script, device, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    flags = ["--backbone", "flux", "--device", device, "--out", str(tmp_path / "out")]
    if script is sample:
        flags += ["--prompt", "none.safetensors", "--input", "none.png"]
    assert script.main(flags) == 2
    error = f"error: --device {device}: PyTorch finds none here; use --device cpu or auto\n"
    assert capsys.readouterr().err == error and not (tmp_path / "out").exists()


def test_a_mistake_in_a_real_process(tmp_path):
    command = [sys.executable, "train.py", *BASE, "--data", str(tmp_path / "gone")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 2
    assert done.stderr == f"error: {tmp_path}/gone: no such file or folder\n"


def test_few_flags():
    """What has a sensible value gets no flag; more than these need a reason."""
    # Of these --micro-batch, --offload, --weights-dtype, --batch-size, --size: what memory holds.
    for script, most in (("train.py", 25), ("sample.py", 26)):
        source = (ROOT / script).read_text()
        assert 5 < source.count("\n    add(") <= most


def test_all_mistakes_of_a_set_come_before_the_model(pairs, tmp_path, monkeypatch, capsys):
    for name in ("a", "b", "c"):
        pictures.write(tmp_path / f"pairs/degraded/{name}.png", torch.zeros(3, 48, 32))
    pictures.write(tmp_path / "pairs/clean/a.png", torch.zeros(3, 48, 33))
    monkeypatch.setattr(train.weights, "load_backbone", None)  # would fail if called
    flags = [*BASE, "--data", str(tmp_path / "pairs"), "--out", str(tmp_path / "out")]
    assert train.main(flags) == 2
    told = capsys.readouterr()
    lines = told.err.splitlines()
    assert len(lines) == 3 and all(line.startswith("error: ") for line in lines) and not told.out
    assert [f"{name}.png" in line for name, line in zip("abc", lines, strict=True)] == [True] * 3
    assert not (tmp_path / "out").exists()


def test_what_is_read_is_not_replaced(pairs, tmp_path, capsys):
    """A pair that is called as a file of the run is, in the run's folder."""
    rows = []
    for name in ("preview.png", "other.png"):
        pictures.write(tmp_path / name, torch.zeros(3, 48, 32))
        rows.append({"image_path": str(pairs / "degraded/a.png"), "target_path": name})
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    before = (tmp_path / "preview.png").read_bytes()
    (tmp_path / "link").symlink_to(tmp_path)
    for out in (tmp_path, tmp_path / "link"):
        flags = [*BASE, "--data", str(tmp_path / "rows.json"), "--out", str(out)]
        assert train.main(flags) == 2
        assert "preview.png: it would replace" in capsys.readouterr().err
    assert (tmp_path / "preview.png").read_bytes() == before


@pytest.mark.parametrize("error", [MemoryError(), "real", torch.OutOfMemoryError("CUDA: 5 GB.")])
def test_too_little_memory_is_one_line(error, tmp_path, monkeypatch, capsys):
    def load(*args, **options):
        if error == "real":
            torch.empty(2**62, dtype=torch.uint8)  # what PyTorch really says
        raise error

    monkeypatch.setattr(train.weights, "load_backbone", load)
    assert train.main([*BASE, "--out", str(tmp_path / "out")]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and lines[0].startswith(
        "error: memory is too small, a smaller --size needs"
    )


@pytest.mark.parametrize(("stop", "status"), [(KeyboardInterrupt, 130), (Terminated, 143)])
def test_a_stop_before_the_first_step_leaves_nothing(stop, status, tmp_path, monkeypatch, capsys):
    def load(*args, **options):
        raise stop

    monkeypatch.setattr(train.weights, "load_backbone", load)
    assert train.main([*BASE, "--out", str(tmp_path / "out")]) == status
    assert capsys.readouterr().err.startswith("stopped; ")
    assert not any((tmp_path / "out").iterdir())


def test_other_errors_are_not_hidden(tmp_path, monkeypatch):
    def load(*args, **options):
        raise RuntimeError("a fault of ours")

    monkeypatch.setattr(train.weights, "load_backbone", load)
    with pytest.raises(RuntimeError, match="a fault of ours"):
        train.main([*BASE, "--out", str(tmp_path / "out")])


# ---- the folder of a run -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "name"),
    [
        (["--data", "haze.v1"], "flux-haze.v1"),
        (["--data", "haze.v2"], "flux-haze.v2"),
        (["--data", "lists/fog.json"], "flux-fog.json"),
        (["--data", "lists/fog.json", "--degradation", "fog"], "flux-fog"),
        (["--data", "."], "flux-here"),
        (["--data", "lists/.."], "flux-here"),
        ([], "flux-haze"),
        (["--space", "token"], "flux-haze-token"),
    ],
)
def test_every_data_set_has_a_folder_of_its_own(flags, name, tmp_path, monkeypatch):
    (tmp_path / "here/lists").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "here")
    parsed = train.parse_flags(["--backbone", "flux", *flags])
    assert parsed.out == Path("runs") / name and not parsed.named
    parsed = train.parse_flags(["--backbone", "flux", *flags, "--out", "mine"])
    assert parsed.out == Path("mine") and parsed.named


def finished(out: Path, steps: int = 2, state: bool = True) -> None:
    """A folder as a run of two steps leaves it."""
    prompt = Prompt(torch.zeros(2, 3), torch.ones(1))
    out.mkdir(parents=True)
    prompt.save(out / "prompt.safetensors")
    if state:
        optimizer = torch.optim.AdamW(prompt.parameters())
        run_state.save_state(out, prompt, optimizer, 2, {"steps": steps})


def test_a_finished_run_is_not_replaced_without_a_word(tmp_path):
    for state, words in ((True, "a finished run of 2 steps"), (False, "a prompt")):
        out = tmp_path / f"{state}"
        finished(out, state=state)
        before = {file.name: file.read_bytes() for file in out.iterdir()}
        with pytest.raises(ValueError, match=f"{out}: {words} lies here; choose another --out"):
            run_state.begin(out, named=False)
        assert run_state.begin(out, named=True) == f"{out}: {words} will be replaced"
        assert {file.name: file.read_bytes() for file in out.iterdir()} == before
    finished(tmp_path / "cut", steps=9)
    for named in (True, False):
        with pytest.raises(ValueError, match="an unfinished run of 9 steps lies here, 2 done"):
            run_state.begin(tmp_path / "cut", named)
    for name in ("preview.png", "results.csv", "log.csv"):  # somebody's own
        (tmp_path / name).mkdir()
        (tmp_path / name / name).write_text("mine")
        for out in (tmp_path / name, tmp_path):
            with pytest.raises(ValueError, match=f"{name}: .*would be replaced; choose another"):
                run_state.begin(out, named=True)
        (tmp_path / name / name).unlink()
        (tmp_path / name).rmdir()
    finished(tmp_path / "old")
    (tmp_path / "old/preview.png").mkdir()
    with pytest.raises(ValueError, match=r"preview\.png: .*choose another"):
        run_state.begin(tmp_path / "old", named=True)  # not after hours of work
    assert run_state.begin(tmp_path / "new/folder", named=False) == ""
    assert not any((tmp_path / "new/folder").iterdir())


def test_readmes_line_twice_keeps_the_first_prompt(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    finished(tmp_path / "runs/flux-haze")
    assert train.main(["--backbone", "flux"]) == 2
    assert "runs/flux-haze: a finished run of 2 steps lies here" in capsys.readouterr().err
