"""The committed diagrams are what diagrams.py draws, and what they say is what the code does."""

import inspect
import math
import re
from pathlib import Path
from xml.etree import ElementTree

import pytest
import torch

import train
from notebooks import diagrams
from notebooks.drawing import cheat_sheet, ladder, paths
from tinybridge import bridge
from tinybridge.restoration import restore

ROOT = Path(__file__).parents[2]
FILES = sorted((ROOT / "notebooks/figures").glob("*.svg"))
WIDE = {"head": 8.4, "small": 6.6, "code": 7.9}  # pixels of a letter, in the widest usual fonts
SVG = "{http://www.w3.org/2000/svg}"
PLACE = re.compile(r"([\w/]+\.py):(\d+)")


def test_committed_files_are_fresh(tmp_path):
    diagrams.main([str(tmp_path)])
    fresh = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    assert fresh == {file.name: file.read_bytes() for file in FILES}, (
        "run python notebooks/diagrams.py"
    )


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_words_stay_on_the_page_and_do_not_meet(file):
    root = ElementTree.fromstring(file.read_text(encoding="utf-8"))
    width, height = (float(n) for n in root.get("viewBox").split()[2:])
    lines = []
    for text in root.iter(f"{SVG}text"):
        kind = next((name for name in WIDE if name in text.get("class")), "")
        wide = WIDE.get(kind, 7.4) * len(text.text or "")
        x, y = float(text.get("x")), float(text.get("y"))
        left = x - wide / 2 if "middle" in text.get("class") else x
        assert left >= 0 and left + wide <= width and 14 <= y <= height - 4, text.text
        lines.append((left, left + wide, y, text.text))
    for k, (left, right, y, said) in enumerate(lines):
        for other_left, other_right, other_y, other in lines[:k]:
            apart = abs(y - other_y) >= 13 or right <= other_left or other_right <= left
            assert apart, f"{said} on {other}"


def test_the_paths_that_are_drawn():
    learned = {name: paths.training_states(bridge.find(name)) for name in paths.SAID}
    walked = {name: paths.walk(bridge.find(name)) for name in paths.SAID}
    assert all(way == 0 for way, _ in learned["naive"])
    levels = [level for _, level in learned["naive"]]
    assert levels == pytest.approx([0.4 - 0.05 * k for k in range(9)])
    for name, states in walked.items():
        assert states[-1] == pytest.approx((1, 0)), name
    for way, level in learned["desired"] + walked["desired"]:  # one straight line
        assert level == pytest.approx(0.4 * (1 - way))
    for way, level in walked["naive"][1:-1]:  # Euler on the flow: y's share of (1 - t0) / t0 t
        assert (1 - way) * (1 - level) == pytest.approx(0.6 / 0.4 * level)
    assert learned["ddbm"][0] == (0, 0) == walked["ddbm"][0]  # no noise where it begins,
    assert walked["ddbm"][1][0] == pytest.approx(0)  # and the first call has corrected nothing
    assert math.dist(walked["ddbm"][1], learned["ddbm"][2]) > 0.1


# ---- the ladder and the cheat sheet ------------------------------------------------------------


def test_the_rungs_of_the_official_models():
    """As the released prompts: 512 x 3072 with 57 gates, 226 x 1536 with 30; T5 is 4096 wide."""
    numbers = ladder.numbers()
    assert numbers.keys() == ladder.RUNGS.keys()
    assert numbers["every"] == (512 * 3072 + 57, 226 * 1536 + 30)
    assert numbers["first"] == (512 * 3072 + 1, 226 * 1536 + 1)
    assert numbers["tokens"] == numbers["sphere"] == numbers["free"] == (512 * 4096, 226 * 4096)
    assert numbers["pooled"] == (768, None) and numbers["sentence"] == (0, 0)


def rows(name: str) -> list[dict[float, str]]:
    """The words of a diagram line by line: what is said at which x."""
    found: dict[float, dict[float, str]] = {}
    for text in ElementTree.fromstring((FILES[0].parent / name).read_text()).iter(f"{SVG}text"):
        found.setdefault(float(text.get("y")), {})[float(text.get("x"))] = text.text
    return [found[y] for y in sorted(found)]


def line_at(place: str) -> str:
    """The line of the source that a place like bridge.py:12 names."""
    file, line = PLACE.fullmatch(place).groups()
    return (ROOT / "tinybridge" / file).read_text().splitlines()[int(line) - 1]


SAID = {  # on the sheet: what the source says on the line that the sheet names for it
    "x_t = a x0 + b y + c eps": "return a * x0 + b * y + c * eps",
    "x0_hat = x_t - s v": "x0_hat = x_t - over(s, x_t) * v",
    "mean of (x0_hat - x0)^2": "(x0_hat - x0).square().flatten(1).mean(1)",
    "q, k, v of h + gates[i] P": "self.qkv(x + gate * P)",
    "attn(x, E) + gates[i] attn(x, E + P)": "out + gate * attend(q, term.prompt)",
    "eps_hat = (x - a x0_hat - b y) / c": "(x - now.a * x0_hat - now.b * y) / now.c",
    "x' = a' x0_hat + b' y + c' eps_hat": "then.a * x0_hat + then.b * y + then.c * eps_hat",
    "naive": "def naive(",
    "ddbm": "def ddbm(",
    "desired": "def desired(",
    "what is learned": "class Prompt(",
    "one training step": "def sample_losses(",
    "the sampler": "def sample(",
    "the frozen model": "def velocity(",
    "the time that it is told": "def model_time(",
    "FLUX, a joint block": "class DoubleBlock(",
    "FLUX, a single block": "class SingleBlock(",
    "WAN, a block": "class Block(",
    "a picture restored": "def restore(",
}


def test_every_line_that_the_sheet_names_says_what_it_should():
    seen = {}
    for row in rows("cheat_sheet.svg"):
        places = [said for said in row.values() if PLACE.fullmatch(said)]
        for place in places:
            (said,) = (said for said in row.values() if said in SAID)
            assert SAID[said] in line_at(place), f"{place} for {said}"
            seen[said] = place
    assert seen.keys() == SAID.keys()


def test_a_line_that_is_gone_is_told():
    with pytest.raises(ValueError, match=r"bridge.py: 0 lines of step hold 'x \+ 1', not 1"):
        cheat_sheet.place(bridge.step, "x + 1")


@pytest.mark.parametrize("row", cheat_sheet.PATHS, ids=lambda row: row[0])
def test_the_formulas_of_the_sheet_are_the_bridges(row):
    name, *formulas, sampled, _ = row
    t0 = 0.4
    for t in torch.linspace(0.01, 0.4, 9, dtype=torch.float64):
        r = ((1 - t0) * t / (t0 * (1 - t))) ** 2
        d = t * (1 - r).clamp(min=0).sqrt()
        known = {"t": t, "lam": t / t0, "r": r, "s": d / (1 - t + d)}
        told = [worth(formula, known) for formula in formulas]
        path = bridge.find(name)
        at = path.coefficients(t, t0)
        assert told == pytest.approx([at.a.item(), at.b.item(), at.c.item()], abs=1e-6)
        walked = path.sampling(t, t0)
        if sampled != "the same":
            told = [worth(formula, known) for formula in sampled.split(", ")]
        assert told == pytest.approx([walked.a.item(), walked.b.item(), walked.c.item()], abs=1e-6)


def worth(formula: str, known: dict) -> float:
    """(1 - s) r, as it is written in a book, for known letters."""
    return float(eval(re.sub(r"\) ?(?=[\w(])", ") * ", formula), {}, known))


def test_the_defaults_of_the_sheet_are_those_of_the_scripts():
    told = dict(cheat_sheet.defaults())
    learns = {name: train.parse_flags(["--backbone", name]) for name in ("flux", "wan")}
    flags = learns["flux"]
    assert told["bridge, loss"] == f"{flags.bridge}, {flags.loss}"
    assert told["t0, t_min"].split(", ")[0] == f"{flags.t0}"
    assert told["pairs a step"] == f"{flags.batch_size}"
    assert told["steps, tiny FLUX / WAN"] == " / ".join(str(f.steps) for f in learns.values())
    assert told["rate, tiny FLUX / WAN"] == " / ".join(f"{f.lr:g}" for f in learns.values())
    walked = inspect.signature(restore).parameters
    assert told["calls of the model"] == str(walked["steps"].default)
