"""sample.py's numbers: of the files as they are read back, for names of every kind."""

import io
import os
import sys

import pytest
from PIL import Image

from tests.oracles.picture_bytes import png
from tests.scripts.test_sample_folders import RGB, backbone, prompts, put, rows_of, run
from tinybridge.data import pictures
from tinybridge.metrics import psnr

__all__ = ["backbone", "prompts", "run"]  # fixtures


def test_the_table_is_of_the_files(run, tmp_path):
    """A JPEG and a lossy WebP are measured as they are read back, with names that are not UTF-8."""
    names = [
        "a.jpg",
        "b.webp",
        "c.png",
        os.fsdecode(b"latin-\xe9.png"),
        "new\nline.png",
        "日本.png",
    ]
    for name in names:
        for folder, array in (("in", RGB), ("gt", 255 - RGB)):
            (tmp_path / folder).mkdir(exist_ok=True)
            Image.fromarray(array).save(tmp_path / folder / name)
    flags = ["--input", tmp_path / "in", "--target", tmp_path / "gt", "--out", tmp_path / "out"]
    assert run(*flags) == 0
    rows = {row["picture"]: row for row in rows_of(tmp_path / "out/metrics.csv")}
    assert rows.keys() == set(names)
    for name, row in rows.items():
        made, clean = (pictures.read(tmp_path / place / name).pixels for place in ("out", "gt"))
        found = min(psnr(made[None], clean[None]).item(), 100)
        assert float(row["psnr"]) == pytest.approx(found, abs=0.01)
    assert not list((tmp_path / "out").glob(".*"))


def test_names_that_the_terminal_cannot_show(run, tmp_path, monkeypatch):
    put(tmp_path / "in/é.png"), put(tmp_path / "in/bad\u2028.png", b"text")
    put(tmp_path / "in" / os.fsdecode(b"\xff.png"), b"text")
    raw = [io.BytesIO(), io.BytesIO()]
    for name, buffer in zip(("stdout", "stderr"), raw, strict=True):
        monkeypatch.setattr(sys, name, io.TextIOWrapper(buffer, "ascii", write_through=True))
    assert run("--input", tmp_path / "in", "--out", tmp_path / "out") == 2
    assert (tmp_path / "out/é.png").is_file()
    lines = [line for line in raw[1].getvalue().splitlines() if b"error:" in line]
    assert len(lines) == 2 and b"\\xff" in lines[1].replace(b"\\udcff", b"\\xff")


def test_targets_that_do_not_fit_cost_the_numbers_alone(run, tmp_path, capsys):
    for name in ("a.png", "b.png", "c.png", "d.png"):
        put(tmp_path / "in" / name)
    put(tmp_path / "gt/a.png")
    put(tmp_path / "gt/b.png", png(RGB[:4], 2))  # of another size
    put(tmp_path / "gt/c.png", b"no picture")
    flags = ["--input", tmp_path / "in", "--target", tmp_path / "gt", "--out", tmp_path / "out"]
    assert run(*flags) == 0
    told = capsys.readouterr()
    lines = [line for line in told.err.splitlines() if "restored without numbers" in line]
    assert len(lines) == 3
    for line, words in zip(
        lines, ("both must have one size", "c.png: not a", "no file has"), strict=True
    ):
        assert words in line
    assert [row["picture"] for row in rows_of(tmp_path / "out/metrics.csv")] == ["a.png"]
    assert len(list((tmp_path / "out").iterdir())) == 5
