"""The committed diagrams are what diagrams.py draws; what the paths show is what bridge.py does."""

import math
from pathlib import Path
from xml.etree import ElementTree

import pytest

from notebooks import diagrams
from tinybridge import bridge

FILES = sorted((Path(__file__).parents[2] / "notebooks/figures").glob("*.svg"))
WIDE = {"head": 8.4, "small": 6.6}  # pixels of a letter, in the widest usual fonts
SVG = "{http://www.w3.org/2000/svg}"


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
    learned = {name: diagrams.training_states(bridge.find(name)) for name in diagrams.SAID}
    walked = {name: diagrams.walk(bridge.find(name)) for name in diagrams.SAID}
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
