"""sample.py through its command line, on the bundled tiny FLUX with random prompts."""

import csv
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import sample
import weights
from tinybridge.data import pictures, scenes
from tinybridge.metrics import psnr, ssim
from tinybridge.prompt import Prompt, Tokens
from tinybridge.restoration import restore
from tinybridge.sampling import files

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def backbone():
    return weights.load_backbone("flux")


@pytest.fixture(scope="module")
def prompts(backbone, tmp_path_factory) -> list[Path]:
    """Two prompts that fit the bundled model and move its pictures."""
    folder, files = tmp_path_factory.mktemp("prompts"), []
    for seed in (1, 2):
        prompt = Prompt.init(backbone.length, backbone.width, backbone.blocks, seed, std=2.0)
        prompt.meta = {"backbone": "flux", "bridge": "desired", "t0": "0.4", "grid": "true"}
        files.append(folder / f"{seed}.safetensors")
        prompt.save(files[-1])
    return files


def picture(height: int = 40, width: int = 52) -> np.ndarray:
    """[H, W, 3] uint8 of a drawn scene."""
    drawn = scenes.scene(5, max(height, width)).picture[:, :height, :width]
    return (drawn.transpose(1, 2, 0) * 255).round().astype(np.uint8)


def run(*flags: object) -> int:
    return sample.main(["--backbone", "flux", "--steps", "3", *map(str, flags)])


def variants() -> dict[str, tuple[Image.Image, dict]]:
    """Pictures of every kind by file name, with the options they are saved with."""
    rgb, exif = Image.fromarray(picture()), Image.Exif()
    exif[0x0112] = 6  # stored on its side
    clear = rgb.copy()
    clear.putalpha(Image.linear_gradient("L").resize(rgb.size))
    wide = Image.fromarray(picture()[..., 0].astype(np.uint16) * 257)
    return {
        "plain.png": (rgb, {}),
        "odd.jpg": (Image.fromarray(picture(37, 51)), {}),
        "side.jpg": (rgb, {"exif": exif}),
        "alpha.png": (clear, {}),
        "alpha.webp": (clear, {}),
        "sixteen.png": (wide, {}),
        "cmyk.jpg": (rgb.convert("CMYK"), {}),
        "grey.bmp": (rgb.convert("L"), {}),
        "palette.png": (rgb.quantize(16), {}),
        "two.tiff": (rgb.convert("1"), {}),
        "pixel.png": (Image.fromarray(picture(1, 1)), {}),
        "line.png": (Image.fromarray(picture(1, 64)), {}),
    }


def test_every_kind_of_picture_keeps_name_and_size(prompts, tmp_path):
    (tmp_path / "in").mkdir()
    for name, (image, options) in variants().items():
        image.save(tmp_path / "in" / name, **options)
    flags = ["--prompt", prompts[0], "--input", tmp_path / "in", "--out", tmp_path / "out"]
    assert run(*flags) == 0
    assert {f.name for f in (tmp_path / "out").iterdir()} == variants().keys()
    for name, (image, options) in variants().items():
        with Image.open(tmp_path / "out" / name) as restored:
            size = image.size[::-1] if options else image.size
            assert restored.size == size, name
            assert restored.mode == ("RGBA" if name.startswith("alpha") else "RGB"), name
            assert np.asarray(restored).std() > 0 or name == "pixel.png"
    with Image.open(tmp_path / "in/alpha.png") as a, Image.open(tmp_path / "out/alpha.png") as b:
        assert np.array_equal(np.array(a.getchannel("A")), np.array(b.getchannel("A")))


def test_it_is_what_the_library_gives_and_repeats_itself(backbone, prompts, tmp_path):
    Image.fromarray(picture()).save(tmp_path / "a.png")
    pixels = pictures.read(tmp_path / "a.png").pixels[None]
    expected = restore(backbone, [Prompt.load(prompts[0])], pixels, steps=3, seed=7)[0]
    flags = ["--prompt", prompts[0], "--input", tmp_path / "a.png", "--seed", 7]
    for name in "xy":
        assert run(*flags, "--out", tmp_path / name) == 0
    written = pictures.read(tmp_path / "x/a.png").pixels
    assert (written - expected).abs().max() <= 0.5 / 255 + 1e-6
    assert (tmp_path / "x/a.png").read_bytes() == (tmp_path / "y/a.png").read_bytes()
    assert run(*flags[:-1], 8, "--out", tmp_path / "z") == 0
    assert (tmp_path / "z/a.png").read_bytes() != (tmp_path / "x/a.png").read_bytes()


def test_batches_do_not_change_a_picture(backbone, prompts):
    pixels = torch.from_numpy(picture(32, 48)).permute(2, 0, 1)[None] / 255
    pixels = torch.cat((pixels, pixels.flip(3), pixels.flip(2)))  # [3, 3, 32, 48]
    chosen = [Prompt.load(prompts[0])]
    whole = restore(backbone, chosen, pixels, steps=3)
    parts = restore(backbone, chosen, pixels, steps=3, batch_size=2)
    assert (whole - parts).abs().max() < 1e-5


def test_several_prompts_are_the_mean_of_their_velocities(backbone, prompts, tmp_path):
    one, two = (Prompt.load(file) for file in prompts)
    pixels = torch.from_numpy(picture(32, 32)).permute(2, 0, 1)[None] / 255

    class Mean:  # the literal form: two forwards per step
        encode, decode, video, dtype = backbone.encode, backbone.decode, False, backbone.dtype

        def prepare(self, prompts, levels):
            return prompts

        def velocity(self, x, s, prompt):
            return sum(backbone.velocity(x, s, p) for p in prompt) / len(prompt)

    literal = restore(Mean(), [one, two], pixels, steps=3)
    batched = restore(backbone, [one, two], pixels, steps=3)
    assert (literal - batched).abs().max() < 1e-4
    assert (restore(backbone, [one], pixels, steps=3) - batched).abs().max() > 0.02
    pictures.write(tmp_path / "a.png", pixels[0])
    flags = ["--input", tmp_path / "a.png", "--out", tmp_path / "out"]
    assert run("--prompt", *prompts, *flags) == 0
    shown = restore(backbone, [one, two], pictures.read(tmp_path / "a.png").pixels[None], steps=3)[
        0
    ]
    assert (pictures.read(tmp_path / "out/a.png").pixels - shown).abs().max() <= 0.5 / 255 + 1e-4


def test_targets_give_numbers_and_a_table(prompts, tmp_path, capsys):
    degraded, clean = scenes.pairs("haze", [1, 2], 48)
    for k in range(2):
        pictures.write(tmp_path / f"in/{k}.png", degraded[k])
        pictures.write(tmp_path / f"gt/{k}.png", clean[k])
    flags = ["--prompt", prompts[0], "--input", tmp_path / "in", "--out", tmp_path / "out"]
    assert run(*flags, "--target", tmp_path / "gt") == 0
    told = capsys.readouterr().out
    with (tmp_path / "out/metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["picture"] for row in rows] == ["0.png", "1.png"]
    for k, row in enumerate(rows):
        goal = pictures.read(tmp_path / f"gt/{k}.png").pixels[None]
        for folder, names in (
            ("in", ("psnr_degraded", "ssim_degraded")),
            ("out", ("psnr", "ssim")),
        ):
            pixels = pictures.read(tmp_path / f"{folder}/{k}.png").pixels[None]
            for name, measure in zip(names, (psnr, ssim), strict=True):
                assert float(row[name]) == pytest.approx(measure(pixels, goal).item(), abs=1e-4)
    assert f"PSNR {float(rows[0]['psnr_degraded']):.2f} -> {float(rows[0]['psnr']):.2f} dB" in told
    assert "mean of 2: PSNR" in told and "2 of 2 pictures" in told


def test_authors_list_brings_its_targets(prompts, tmp_path):
    degraded, clean = scenes.pairs("rain", [3, 4], 32)
    rows = []
    for k in range(2):  # two pictures of one name
        pictures.write(tmp_path / f"{k}/a.png", degraded[k])
        pictures.write(tmp_path / f"{k}/gt.png", clean[k])
        rows.append({"image_path": f"{k}/a.png", "target_path": f"{k}/gt.png"})
    (tmp_path / "list.json").write_text(json.dumps(rows))
    flags = ["--prompt", prompts[0], "--input", tmp_path / "list.json", "--out", tmp_path / "out"]
    assert run(*flags) == 0
    assert {f.name for f in (tmp_path / "out").iterdir()} == {"a.png", "a-2.png", "metrics.csv"}


def test_one_broken_picture_does_not_stop_the_others(prompts, tmp_path, capsys):
    for name in ("a.png", "c.png"):
        pictures.write(tmp_path / "in" / name, torch.rand(3, 16, 16))
    (tmp_path / "in/b.png").write_text("no picture")
    flags = ["--prompt", prompts[0], "--input", tmp_path / "in", "--out", tmp_path / "out"]
    assert run(*flags) == 2
    said = capsys.readouterr()
    errors = [line for line in said.err.splitlines() if "error:" in line]
    assert len(errors) == 1 and "b.png: not a picture" in errors[0]
    assert {f.name for f in (tmp_path / "out").iterdir()} == {"a.png", "c.png"}
    assert "2 of 3 pictures restored" in said.out


CASES = {
    "no input": "gone: no such file or folder",
    "empty folder": "no pictures in it",
    "no prompt": "gone.safetensors: no such prompt file",
    "truncated prompt": "cut.safetensors: not a readable safetensors file",
    "prompt of another model": "wan.safetensors: prompt is for wan with 226 rows of width 1536",
    "prompts of two kinds": "was trained with bridge ddbm",
    "no weights": "gone: no such file or folder",
    "truncated weights": "flux1-tiny.safetensors",
    "no target": "gone: no such file or folder",
    "onto itself": "choose another --out",
    "out is a file": "file",
    "steps": "steps is 0",
    "t0": "t0 is 1.5",
    "flags of clips": "--overlap are for clips, which --backbone wan restores",
    "other kind of file": "expected a name ending in .png",
}


@pytest.mark.parametrize("case", CASES)
def test_mistakes_are_one_line_and_status_2(case, prompts, tmp_path, capsys):
    good, gone, out = tmp_path / "in/a.png", tmp_path / "gone", tmp_path / "out"
    pictures.write(good, torch.rand(3, 16, 16))
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("")
    (tmp_path / "a.gif").write_bytes(b"GIF89a")
    (tmp_path / "cut.safetensors").write_bytes(prompts[0].read_bytes()[:300])
    wan = Prompt.init(226, 1536, 30, 0)
    wan.meta = {"backbone": "wan"}
    wan.save(tmp_path / "wan.safetensors")
    other = Prompt.load(prompts[0])
    other.meta["bridge"] = "ddbm"
    other.save(tmp_path / "ddbm.safetensors")
    folder = tmp_path / "flux"
    shutil.copytree(weights.TINY / "flux", folder)
    whole = (folder / "flux1-tiny.safetensors").read_bytes()
    (folder / "flux1-tiny.safetensors").write_bytes(whole[: len(whole) // 2])
    flags = {
        "no input": ["--input", gone],
        "empty folder": ["--input", tmp_path / "empty"],
        "no prompt": ["--prompt", tmp_path / "gone.safetensors"],
        "truncated prompt": ["--prompt", tmp_path / "cut.safetensors"],
        "prompt of another model": ["--prompt", tmp_path / "wan.safetensors"],
        "prompts of two kinds": ["--prompt", prompts[0], tmp_path / "ddbm.safetensors"],
        "no weights": ["--weights", gone],
        "truncated weights": ["--weights", folder],
        "no target": ["--target", gone],
        "onto itself": ["--out", tmp_path / "in"],
        "out is a file": ["--out", tmp_path / "file"],
        "steps": ["--steps", 0],
        "t0": ["--t0", 1.5],
        "flags of clips": ["--overlap", 4],
        "other kind of file": ["--input", tmp_path / "a.gif"],
    }[case]
    assert run("--prompt", prompts[0], "--input", good, "--out", out, *flags) == 2
    lines = capsys.readouterr().err.splitlines()
    errors = [line for line in lines if "error:" in line]
    assert len(errors) == 1 and CASES[case] in errors[0], lines
    assert not out.exists() or not any(out.iterdir())
    assert (tmp_path / "file").read_text() == ""


def test_a_mistake_in_a_real_process(prompts, tmp_path):
    command = [sys.executable, "sample.py", "--backbone", "flux", "--prompt", prompts[0]]
    done = subprocess.run(
        [*map(str, command), "--input", str(tmp_path / "gone")],
        cwd=ROOT, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr == f"error: {tmp_path}/gone: no such file or folder\n"


def test_a_picture_that_is_not_finite_is_refused(prompts, tmp_path, monkeypatch, capsys):
    pictures.write(tmp_path / "a.png", torch.rand(3, 16, 16))
    monkeypatch.setattr(files, "restore", lambda *a, **k: torch.full((1, 3, 16, 16), torch.nan))
    flags = ["--prompt", prompts[0], "--input", tmp_path / "a.png", "--out", tmp_path / "out"]
    assert run(*flags) == 2
    assert "a.png: a restored picture is not finite" in capsys.readouterr().err
    assert not any((tmp_path / "out").iterdir())


def test_prompts_in_token_space(prompts, tmp_path, capsys):
    backbone = weights.load_backbone("flux", keep_encoder=True)
    chosen = Tokens.init(backbone.null_embeddings(), 0, noise=1.0)
    chosen.meta = {"backbone": "flux", "bridge": "desired", "t0": "0.4", "grid": "true"}
    chosen.save(tmp_path / "t.safetensors")
    pictures.write(tmp_path / "a.png", torch.from_numpy(picture(32, 32)).permute(2, 0, 1) / 255)
    flags = ["--input", tmp_path / "a.png", "--out", tmp_path / "out"]
    assert run("--prompt", tmp_path / "t.safetensors", *flags) == 0
    expected = restore(backbone, [chosen], pictures.read(tmp_path / "a.png").pixels[None], steps=3)[
        0
    ]
    assert (pictures.read(tmp_path / "out/a.png").pixels - expected).abs().max() <= 0.5 / 255 + 1e-5
    assert run("--prompt", prompts[0], tmp_path / "t.safetensors", *flags) == 2
    assert "was trained with space token" in capsys.readouterr().err


def test_a_sentence_changes_the_picture(prompts, tmp_path):
    pictures.write(tmp_path / "a.png", torch.from_numpy(picture(32, 32)).permute(2, 0, 1) / 255)
    flags = ["--prompt", prompts[0], "--input", tmp_path / "a.png", "--out"]
    assert run(*flags, tmp_path / "x") == 0
    assert run(*flags, tmp_path / "y", "--text", "red house, green land, blue sky") == 0
    a, b = (pictures.read(tmp_path / name / "a.png").pixels for name in "xy")
    assert (a - b).abs().max() > 0.01
