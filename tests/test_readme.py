"""What the READMEs name is there, what they number is counted, what they show is measured.

Their Python runs in test_library.py, their commands in scripts/test_readme_commands.py.
"""

import ast
import csv
import inspect
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from notebooks import claims
from tests.bench import degradations, front, reading
from tinybridge.data import scenes
from tinybridge.restoration import restore
from tinybridge.training.settings import Settings

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = [*front.PAGES]
TOLD = {page: page.read_text(encoding="utf-8") for page in PAGES}
each = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


def visible(text: str) -> str:
    """Without comments, and without what a link or picture does not show."""
    text = re.sub(r"<!--.*?-->", "", text, flags=re.DOTALL)
    return re.sub(r"!\[[^\]]*\]|\]\([^)]*\)", "]", text)


def prose(text: str) -> str:
    """Without code and tables, too."""
    text = re.sub(r"^```.*?^```", "", visible(text), flags=re.DOTALL | re.MULTILINE)
    return re.sub(r"^\|.*$", "", text, flags=re.MULTILINE)


# ---- length ------------------------------------------------------------------------------------


def test_readme_is_short():
    assert reading.markdown(README).words <= 1000 and len(README.split()) <= 1000


def test_readme_has_one_line_to_run_and_one_to_test():
    lines = README.splitlines()
    for mark in ("# run", "# test"):
        assert len([line for line in lines if line.endswith(mark)]) == 1


def test_the_way_of_counting():
    text = (
        "# One two\n\n<!-- not this -->\n![no](a.png) [three](four.md) |\n```py\nx = 5\n\ny\n```\n"
    )
    read = reading.markdown(text)
    assert (read.words, read.prose, read.lines, read.pictures) == (7, 4, 2, 1)
    assert read.minutes == pytest.approx(4 / 130 + 2 * 4 / 60 + 40 / 60)
    assert reading.place("a\nb c\nd", "b") == ("2", "0.0")
    with pytest.raises(ValueError, match="no line says"):
        reading.place("a", "b")


def test_how_long_readme_is_beside_others_is_told():
    ours, *others = reading.readmes(None)
    assert ours in reading.TABLE.read_text(encoding="utf-8"), "run python -m tests.bench.front"
    assert len(others) == len(reading.OTHERS)


# ---- names -------------------------------------------------------------------------------------


def anchors(text: str) -> set[str]:
    """What a browser makes of the headings."""
    heads = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).strip().replace(" ", "-") for head in heads}


@each
def test_links_lead_somewhere(page):
    for link in re.findall(r"\]\(([^)\s]+)\)", TOLD[page]):
        if link.startswith("http"):
            continue
        name, _, anchor = link.partition("#")
        target = page.parent / name if name else page
        assert target.exists(), link
        if anchor:
            assert anchor in anchors(target.read_text(encoding="utf-8")), link


@each
def test_files_that_are_named_are_there(page):
    named = re.findall(r"`([\w./-]+/|[\w./-]+\.(?:py|md|toml|cff|ipynb|csv|svg|png))`", TOLD[page])
    places = [ROOT, page.parent, ROOT / "notebooks", *ROOT.glob("tinybridge/*/")]
    promised = {
        "preview.png",
        "log.csv",
        "results.csv",
        "metrics.csv",
        "runs/flux-haze/preview.png",
    }
    read_or_written = promised | {"b.jpg", "b-metrics.csv", "a.png", "a-2.png", "._a.png"}
    for name in named:
        there = any((place / name).exists() for place in places)
        assert there or name in read_or_written or page.parent.name in ("data", "checkpoints"), name


def test_every_file_of_the_package_is_in_a_guide():
    guides = {page.parent: text for page, text in TOLD.items()}
    for file in [*ROOT.glob("tinybridge/**/*.py"), *ROOT.glob("*.py")]:
        if file.name == "__init__.py":
            continue
        wing = file.parent if file.parent in guides else ROOT / "tinybridge"
        words = re.findall(
            r"`([\w.]+)`", guides[wing if file.parent != ROOT else ROOT / "tinybridge"]
        )
        inside = {file.name, file.stem}
        parent = re.findall(r"`(\w+)/`", guides[ROOT / "tinybridge"])
        assert inside & set(words) or file.parent.name in parent, file


@each
def test_programs_and_flags_that_are_named_are_there(page):
    """Every `python ...` in text or code; flags by the strings of the program that takes them."""
    for command in re.findall(r"\bpython (-m [\w.]+|[\w./-]+\.py)([^`\n]*)", visible(TOLD[page])):
        name, flags = command
        file = ROOT / name if name.endswith(".py") else ROOT / (name[3:].replace(".", "/") + ".py")
        if name == "-m pytest":
            continue
        package = file.with_suffix("") / "__main__.py"
        assert file.is_file() or package.is_file(), name
        tree = ast.parse((file if file.is_file() else package).read_text(encoding="utf-8"))
        known = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)}
        for flag in re.findall(r"(?<= )--[\w-]+", flags.split("#")[0]):
            assert flag in known, f"{name} {flag}"


LETTERS = {  # as it is written; where it is told
    r"\bP\b": "a matrix P",
    "`x0`": "Letters: `x0` is clean",
    "`y`": "`y` degraded",
    "`t`": "`t` is a time",
    "`eps`": "`eps` noise",
    "`x_t`": "`x_t` the mixture",
    "`s`": "`s` its noise",
    "`v`": "`v` the model's answer",
    "(?<!tiny)bridge": "bridge*: `naive`",
    "`naive`": "`naive` has nothing",
    "`ddbm`": "`ddbm` no noise",
    "`desired`": "`desired` all",
    r"\bdB\b": "Decibels (dB, PSNR)",
    "PSNR": "Decibels (dB, PSNR)",
    "latents": "latents, the arrays",
    r"input\s+tokens": "input tokens* are learned words",
}


@pytest.mark.parametrize("letter", LETTERS)
def test_letters_are_told_before_they_are_used(letter):
    text = visible(README)
    used = re.search(letter, text)
    assert used is not None and used.start() >= text.index(LETTERS[letter])


# ---- numbers -----------------------------------------------------------------------------------


@each
def test_tables_lengths_and_printed_lines_are_fresh(page):
    assert front.fresh(TOLD[page], page.parent) == TOLD[page], "run python -m tests.bench.front"


def test_numbers_of_readme_are_those_of_the_code():
    assert f"at time {Settings.t0}," in README and "20 steps" in README
    assert inspect.signature(restore).parameters["steps"].default == 20
    assert scenes.pairs("haze", [0])[0].shape[-2:] == (64, 64) and "64x64 pixels" in README
    said = re.findall(r"(?<![\w.])\d+\.\d+(?!\.\d)", prose(README).replace("WAN 2.1", ""))
    claimed = " ".join(re.findall(r"<!-- claim: [^|]*\|(.*?)-->", README))
    known = {str(Settings.t0), "1.0", "2604.04924", "2.0"}
    assert [number for number in said if number not in known and number not in claimed] == []


@each
def test_claims_have_rows_that_support_them(page):
    for claim in claims.find(TOLD[page]):
        assert claims.check(claim) == [], f"line {claim.line}: {claim.sentence}"


def test_tables_of_the_bench_are_those_of_its_rows(tmp_path, monkeypatch):
    made = ["degradations-flux.md", "degradations-wan.md", "gains.md"]
    committed = {name: (degradations.BENCH / name).read_text() for name in made}
    for file in degradations.BENCH.glob("degradations-*.csv"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    monkeypatch.setattr(degradations, "BENCH", tmp_path)
    degradations.write_tables()
    assert {name: (tmp_path / name).read_text() for name in made} == committed


def test_rows_of_a_run(tmp_path, monkeypatch):
    folder = tmp_path / "runs/bench/wan-rain"
    folder.mkdir(parents=True)
    reported = ["picture,psnr,ssim,change", "degraded,18.0,0.3,0.02", "no prompt,17.0,0.4,0.03"]
    reported += ["restored,20.25,0.8,0.015", "clean,inf,1.0,0.01"]
    (folder / "results.csv").write_text("\n".join(reported) + "\n")
    monkeypatch.setattr(degradations, "ROOT", tmp_path)
    rows = degradations.rows_of("wan", "rain", 61.7)
    assert [row["flicker"] for row in rows] == [2, 3, 1.5, 1]
    assert [row.get("gain") for row in rows] == [None, -1, 2.25, None]
    assert {(row["degradation"], row["seconds"]) for row in rows} == {("rain", 62)}
    whole = degradations.whole_table(rows)
    assert "| rain | 18.00 / 0.300 | 17.00 / 0.400 | 20.25 / 0.800 | +2.25 dB |" in whole
    assert "| 2.0 / 3.0 / 1.5 | 62 s |" in whole


def test_printed_lines_are_those_of_the_table():
    printed = (degradations.BENCH / "run.txt").read_text()
    with (degradations.BENCH / "degradations-flux.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["degradation"] == "haze"]
    for row in rows:
        line = f"{row['picture']:<22} {float(row['psnr']):8.2f} {float(row['ssim']):7.3f}"
        assert line in printed.splitlines()


def test_lines_of_code_that_figures_name_are_there():
    """In the cheat sheet a place is `file.py:12`."""
    text = "".join(
        file.read_text(encoding="utf-8") for file in ROOT.glob("notebooks/figures/*.svg")
    )
    found = re.findall(r"([\w/]+\.py):(\d+)", text)
    assert found
    for name, line in found:
        options = [ROOT / name, ROOT / "tinybridge" / name, *ROOT.glob(f"tinybridge/*/{name}")]
        file = next(option for option in options if option.is_file())
        assert file.read_text(encoding="utf-8").splitlines()[int(line) - 1].strip(), (
            f"{name}:{line}"
        )


def test_the_picture_shows_the_scenes_that_are_drawn_today():
    with Image.open(degradations.PICTURES / "restored-flux.png") as image:
        seen = np.asarray(image.convert("RGB"))
    high, wide, _ = seen.shape
    assert wide <= 1000 and high <= 600
    for k, kind in enumerate(degradations.KINDS):
        pair = scenes.pairs(kind, [degradations.FIRST + k])
        for row, pixels in ((0, pair[0][0]), (2, pair[1][0])):
            tile = (pixels * 255).round().byte().permute(1, 2, 0).numpy()
            tile = tile.repeat(2, 0).repeat(2, 1)  # [128, 128, 3]
            top, left = 22 + row * (128 + 6 + 22), 96 + k * (128 + 6)
            shown = seen[top : top + 128, left : left + 128]
            assert np.abs(shown.astype(int) - tile).max() <= 1, f"run the bench: {kind}"
