"""Every command in the READMEs' blocks of `sh` runs as it stands, at a small budget.

A page's commands run in one folder, one after the other. It holds what they name: drawn pairs and
clips, prompts, and as DIR the bundled model of the command's backbone. Flags are only added: few
steps, small batches, few of the drawn pairs. README's two long lines are run by .ci/run.
"""

import re
import shlex
from pathlib import Path

import av
import pytest

import sample
import train
import weights
from tests.bench.front import PAGES, ROOT
from tests.oracles.prompts import write_authors
from tinybridge.data import moving_scenes, pictures, scenes
from tinybridge.prompt import Prompt
from tinybridge.training import pairs

MAIN = {"train.py": train.main, "sample.py": sample.main, "weights.py": weights.main}
SIDE, FRAMES = 32, 5


def commands(page: Path) -> list[list[str]]:
    """The words of each one, without a comment behind it and without `python`."""
    found = []
    for block in re.findall(r"```sh\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL):
        for line in block.splitlines():
            if line.startswith("python "):
                found.append(shlex.split(line, comments=True)[1:])
    return found


def new_prompt(name: str) -> Prompt:
    """One of the tiny model's sizes."""
    backbone = weights.load_backbone(name)
    prompt = Prompt.init(backbone.length, backbone.width, backbone.blocks, seed=0)
    prompt.meta = {"backbone": name, "bridge": "desired", "t0": "0.4", "grid": "true"}
    return prompt


def write_clip(file: Path) -> None:
    """A film of FRAMES frames."""
    frames = moving_scenes.pairs("rain", [9], SIDE, FRAMES)[0][0]  # [3, T, H, W]
    with av.open(str(file), "w") as out:
        stream = out.add_stream("libx264", rate=24)
        stream.width, stream.height = SIDE, SIDE
        for frame in (frames * 255).byte().permute(1, 2, 3, 0).numpy():
            out.mux(stream.encode(av.VideoFrame.from_ndarray(frame, "rgb24")))
        out.mux(stream.encode(None))


@pytest.fixture
def place(tmp_path, monkeypatch) -> Path:
    """The folder, as the working one."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(pairs, "SCENES", (4, 2))
    for side, shown in zip(
        ("degraded", "clean"), scenes.pairs("haze", [0, 1, 2], SIDE), strict=True
    ):
        for k, picture in enumerate(shown):
            pictures.write(Path(f"PAIRS/{side}/{k}.png"), picture)
    moving = moving_scenes.pairs("rain", [0, 1], SIDE, FRAMES)
    for side, shown in zip(("degraded", "clean"), moving, strict=True):
        for k, clip in enumerate(shown):
            for t in range(FRAMES):
                pictures.write(Path(f"CLIPS/{side}/{k}/{t}.png"), clip[:, t])
    for name in ("photos/a.jpg", "photos/b.png", "photo.jpg"):
        pictures.write(Path(name), shown[0][:, 0])
    write_clip(Path("clip.mp4"))
    for name in ("haze", "snow"):
        new_prompt("flux").save(Path(f"{name}.safetensors"))
    prompt = new_prompt("wan")
    write_authors(Path("wan_haze.pt"), prompt.residual.detach(), prompt.gates.detach(), "wan")
    return tmp_path


def small(program: str, backbone: str) -> list[str]:
    """What is added to a command."""
    if program == "train.py":
        size = f"{SIDE}x{FRAMES}" if backbone == "wan" else f"{SIDE}"
        return ["--steps", "1", "--batch-size", "2", "--size", size]
    return ["--steps", "1"] if program == "sample.py" else []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_run(page, place, capsys):
    for program, *flags in commands(page):
        backbone = flags[flags.index("--backbone") + 1] if "--backbone" in flags else "flux"
        Path("DIR").unlink(missing_ok=True)
        Path("DIR").symlink_to(weights.TINY / backbone)
        done = MAIN[program]([*flags, *small(program, backbone)])
        told = capsys.readouterr()
        assert done == 0, f"{program} {shlex.join(flags)}: {told.err}"


def test_commands_are_found():
    counts = {page.parent.name: len(commands(page)) for page in PAGES}
    assert counts["data"] >= 5 and counts["checkpoints"] >= 5
    assert commands(ROOT / "README.md")[0] == ["train.py", "--backbone", "flux"]
