"""sample.py on folders as people have them; what restores is a stand-in, the files are real."""

import csv
import io
import json
import os
import signal
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import sample
from tests.oracles.picture_bytes import png, tiff, with_exif
from tests.scripts.test_sample import backbone, prompts
from tinybridge.data import pictures
from tinybridge.sampling import files

__all__ = ["backbone", "prompts"]  # fixtures

RGB = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)


@pytest.fixture
def run(prompts, monkeypatch):
    """sample.main with a restoration that only turns the colours round."""
    monkeypatch.setattr(files, "restore", lambda backbone, prompts, pixels, **options: 1 - pixels)

    def main(*flags: object) -> int:
        told = ["--backbone", "flux", "--steps", "1"]
        if "--prompt" not in flags:
            told += ["--prompt", str(prompts[0])]
        return sample.main([*told, *map(str, flags)])

    return main


def put(path: Path, content: bytes | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(png(RGB, 2) if content is None else content)
    return path


def contents(*folders: Path) -> dict[Path, bytes]:
    return {file: file.read_bytes() for f in folders for file in f.rglob("*") if file.is_file()}


def errors(told) -> list[str]:
    return [line for line in told.err.splitlines() if "error:" in line]


def rows_of(file: Path) -> list[dict]:
    with file.open(newline="", encoding="utf-8", errors="surrogateescape") as stream:
        return list(csv.DictReader(stream))


# ---- nothing is overwritten ----------------------------------------------------------------------


@pytest.mark.parametrize(
    "case", ["targets", "inputs", "a row's input", "prompt", "list", "weights"]
)
def test_what_is_read_is_never_replaced(run, prompts, tmp_path, case, capsys):
    one, two = put(tmp_path / "in/a.png"), put(tmp_path / "other/b.png")
    goal = put(tmp_path / "gt/a.png", png(255 - RGB, 2))
    rows = [{"image_path": "a.png"}, {"image_path": "../other/b.png"}]
    (tmp_path / "in/list.json").write_text(json.dumps(rows))
    prompt = tmp_path / "in/p.png"
    prompt.write_bytes(prompts[0].read_bytes())
    mine = tmp_path / "weights"
    put(mine / "deep/a.png")
    flags = {
        "targets": ["--input", one, "--target", goal.parent, "--out", goal.parent],
        "inputs": ["--input", one, two, "--out", two.parent.parent / "in"],
        "a row's input": ["--input", tmp_path / "in/list.json", "--out", tmp_path / "other"],
        "prompt": ["--input", two, "--prompt", prompt, "--out", prompt],
        "list": ["--input", tmp_path / "in/list.json", "--out", tmp_path / "in"],
        "weights": ["--input", one, "--weights", mine, "--out", mine / "deep"],
    }[case]
    before = contents(tmp_path)
    assert run(*flags) == 2
    [line] = errors(capsys.readouterr())
    assert "which is read; choose another --out" in line
    assert contents(tmp_path) == before


# ---- one bad file --------------------------------------------------------------------------------


def test_three_hundred_good_and_three_hundred_bad(run, tmp_path, capsys):
    stream = io.BytesIO()
    Image.fromarray(RGB).save(stream, "JPEG")
    jpeg = stream.getvalue()
    whole = png(RGB, 2)
    bad = [  # and of each kind a suffix that it does not have
        b"", b"text", whole[:40], whole[:-30], jpeg[: len(jpeg) // 2], bytes(200), b"GIF89a",
        whole.replace(b"IDAT", b"IDAX"), tiff(4194324, 24, 8, bytes(99)), b"RIFF\0\0\0\0WEBPVP8 ",
    ]  # fmt: skip
    for k in range(300):
        put(tmp_path / f"in/good{k}.png", None)
        put(tmp_path / f"in/bad{k}{('.png', '.jpg', '.tif')[k % 3]}", bad[k % len(bad)])
    assert run("--input", tmp_path / "in", "--out", tmp_path / "out") == 2
    told = capsys.readouterr()
    assert {f.name for f in (tmp_path / "out").iterdir()} == {f"good{k}.png" for k in range(300)}
    named = errors(told)
    assert len(named) == 300
    assert len({line.split("/in/")[1].split(":")[0] for line in named}) == 300
    assert "300 of 600 pictures restored" in told.out


ERRORS = [RuntimeError, MemoryError, TypeError, struct.error, AttributeError, OverflowError]
ERRORS += [ZeroDivisionError, AssertionError, IndexError, torch.OutOfMemoryError, RecursionError]


@pytest.mark.parametrize("where", ["read", "restore", "write"])
def test_whatever_one_picture_raises_costs_no_other(run, tmp_path, monkeypatch, capsys, where):
    """Every class of exception, without a message as well, while reading, restoring or writing."""
    for k in range(2 * len(ERRORS) + 1):
        put(tmp_path / f"in/{k}.png")
    usual, calls = files.restore if where == "restore" else getattr(pictures, where), []

    def breaks(*args, **options):
        calls.append(1)
        if len(calls) <= 2 * len(ERRORS):
            error = ERRORS[(len(calls) - 1) // 2]
            raise error("one\ntwo") if len(calls) % 2 else error()
        return usual(*args, **options)

    monkeypatch.setattr(files if where == "restore" else pictures, where, breaks)
    assert run("--input", tmp_path / "in", "--out", tmp_path / "out") == 2
    named = errors(capsys.readouterr())
    assert len(named) == 2 * len(ERRORS)
    if where == "restore":
        assert len([line for line in named if "more memory than there is" in line]) == 4
    for k, line in enumerate(named):
        assert f"/{k}.png: " in line and not line.rstrip().endswith(":")
    assert [file.name for file in (tmp_path / "out").iterdir()] == [f"{2 * len(ERRORS)}.png"]


def test_odd_exif_between_two_good_ones(run, tmp_path):
    stream = io.BytesIO()
    Image.fromarray(RGB[:4]).save(stream, "JPEG")
    odd = with_exif(stream.getvalue(), {0x0112: (3, 6), 0x011A: (2, b"300 dpi\0")})
    for name, content in (("a.png", None), ("b.jpg", odd), ("c.png", None)):
        put(tmp_path / "in" / name, content)
    assert run("--input", tmp_path / "in", "--out", tmp_path / "out") == 0
    assert pictures.read(tmp_path / "out/b.jpg").size == (8, 4)


# ---- stopped -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_stopped_run_keeps_what_it_has(run, tmp_path, monkeypatch, number, status):
    for k in range(5):
        put(tmp_path / f"in/{k}.png")
        put(tmp_path / f"gt/{k}.png")
    put(tmp_path / "out/3.png", b"of an earlier run")
    calls, write = [], pictures.save

    def stopping(image, path, **options):
        calls.append(1)
        if len(calls) == 4:  # while the fourth is written
            os.kill(os.getpid(), number)
        write(image, path, **options)

    monkeypatch.setattr(pictures, "save", stopping)
    usual = signal.getsignal(signal.SIGTERM)
    flags = ["--input", tmp_path / "in", "--target", tmp_path / "gt", "--out", tmp_path / "out"]
    assert run(*flags) == status
    assert signal.getsignal(signal.SIGTERM) is usual
    assert [row["picture"] for row in rows_of(tmp_path / "out/metrics.csv")] == [
        "0.png",
        "1.png",
        "2.png",
    ]
    names = {file.name for file in (tmp_path / "out").iterdir()}
    assert names == {"0.png", "1.png", "2.png", "3.png", "metrics.csv"}
    assert (tmp_path / "out/3.png").read_bytes() == b"of an earlier run"
    monkeypatch.setattr(pictures, "save", write)
    times = {name: (tmp_path / f"out/{name}.png").stat().st_mtime_ns for name in "012"}
    assert run(*flags, "--skip-existing") == 0
    assert times == {name: (tmp_path / f"out/{name}.png").stat().st_mtime_ns for name in "012"}
    assert len(rows_of(tmp_path / "out/metrics.csv")) == 5  # those of what was skipped as well
    assert pictures.read(tmp_path / "out/3.png").size == (8, 8)  # it was not whole


def test_skip_existing_counts(run, tmp_path, capsys):
    for name in ("a.png", "b.png", "c.png"):
        put(tmp_path / "in" / name)
    put(tmp_path / "out/a.png")
    put(tmp_path / "out/b.png", png(RGB, 2)[:-60])
    put(tmp_path / "out/c.png", png(RGB[:4], 2))  # of another picture
    assert run("--input", tmp_path / "in", "--out", tmp_path / "out", "--skip-existing") == 0
    assert "3 of 3 pictures restored" in (told := capsys.readouterr().out)
    assert "1 of them were there already" in told
    turned = pictures.read(tmp_path / "in/a.png").pixels
    for name in "bc":
        redone = pictures.read(tmp_path / f"out/{name}.png").pixels
        assert torch.allclose(redone, 1 - turned, atol=1e-6)


# ---- words ---------------------------------------------------------------------------------------


def test_what_is_lost_is_said(run, tmp_path, capsys):
    put(tmp_path / "in/deep.png", png(RGB.astype(np.uint16) * 257, 2))
    put(tmp_path / "in/plain.png"), put(tmp_path / "in/x.heic"), put(tmp_path / "in/._plain.png")
    assert run("--input", tmp_path / "in", "--out", tmp_path / "out") == 0
    told = capsys.readouterr().out.splitlines()
    assert [line for line in told if "not kept" in line] == [
        f"{tmp_path}/in/deep.png: not kept: more than 8 bit"
    ]
    [line] = [line for line in told if "left out" in line]
    assert "x.heic" in line and "._plain.png (hidden)" in line
    assert len([line for line in told if "no tool for photos" in line]) == 1  # for two pictures


def test_large_pictures_are_refused_before_they_are_decoded(run, tmp_path, capsys):
    put(tmp_path / "in/a.png")
    put(tmp_path / "in/b.png", png(np.zeros((64, 96, 3), np.uint8), 2))
    flags = ["--input", tmp_path / "in", "--out", tmp_path / "out", "--max-pixels", 6000]
    assert run(*flags) == 2
    [line] = errors(capsys.readouterr())
    assert "b.png: 96x64 are 0.0 megapixels" in line and "--max-pixels" in line
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["a.png"]


def test_large_pictures_are_restored_in_windows_and_it_is_said(run, tmp_path, capsys):
    put(tmp_path / "in/a.png"), put(tmp_path / "in/b.png", png(np.zeros((96, 130), np.uint8), 0))
    flags = ["--input", tmp_path / "in", "--out", tmp_path / "out"]
    assert run(*flags) == 0
    said = f"{tmp_path}/in/b.png is 130x96: restored in 6 windows of up to 64x64 pixels (--size)"
    told = capsys.readouterr().out.splitlines()
    assert [line for line in told if "windows" in line] == [f"{said}, averaged at every step"]
    assert run(*flags, "--size", 136) == 0
    assert "windows" not in capsys.readouterr().out
    for flag, words in (("--size", "size is 1 pixels: at least"), ("--batch-size", "-size 0: at")):
        assert run(*flags, flag, 1 if flag == "--size" else 0) == 2
        [line] = errors(capsys.readouterr())
        assert words in line


def test_one_result_under_a_name_of_its_own(run, tmp_path):
    put(tmp_path / "a.png")
    put(tmp_path / "gt.png")
    flags = ["--input", tmp_path / "a.png", "--target", tmp_path / "gt.png"]
    assert run(*flags, "--out", tmp_path / "new/b.jpg") == 0
    assert sorted(file.name for file in (tmp_path / "new").iterdir()) == ["b-metrics.csv", "b.jpg"]
    long = put(tmp_path / "in" / ("n" * 251 + ".png"))
    assert run("--input", long, "--out", tmp_path / "out") == 0
    assert (tmp_path / "out" / long.name).is_file()
    name = "n" * 251 + ".png"  # its table's name is shortened
    assert run(*flags, "--out", tmp_path / name) == 0
    assert (tmp_path / name).is_file()
    [table] = tmp_path.glob("n*-metrics.csv")
    assert [row["picture"] for row in rows_of(table)] == [name]


@pytest.mark.parametrize("kind", ["text", "another table", "folder"])
def test_a_table_of_the_users_own_is_not_replaced(run, tmp_path, capsys, kind):
    put(tmp_path / "in/a.png")
    table = tmp_path / "out/metrics.csv"
    if kind == "folder":
        table.mkdir(parents=True)
    else:
        put(table, b"mine" if kind == "text" else b"day,psnr\n1,2\n")
    before = contents(tmp_path)
    flags = ["--input", tmp_path / "in", "--out", tmp_path / "out"]
    assert run(*flags, "--target", tmp_path / "in") == 2
    [line] = errors(capsys.readouterr())
    assert "metrics.csv: no table of this program's" in line and contents(tmp_path) == before
    assert run(*flags) == 0  # no table is written


@pytest.mark.parametrize("out", ["file", "file/deep", "dangling", "loop"])
def test_out_that_cannot_be_a_folder_is_one_line(run, tmp_path, capsys, out):
    put(tmp_path / "in/a.png")
    put(tmp_path / "file", b"mine")
    (tmp_path / "dangling").symlink_to("nowhere")
    (tmp_path / "loop").symlink_to("loop")
    before = contents(tmp_path)
    assert run("--input", tmp_path / "in", "--out", tmp_path / out) == 2
    [line] = errors(capsys.readouterr())
    assert f"{out.split('/')[0]}: no folder, which --out expects" in line
    assert contents(tmp_path) == before
