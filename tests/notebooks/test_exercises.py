"""The exercises: every answer passes its check, every blank and likely mistakes are told why not.

An answer is a file of answers/ that is a cell of a notebook with its blanks filled in. A mistake
is an answer with one thing changed.
"""

import contextlib
import io
import re
import sys
from pathlib import Path

import pytest

from notebooks import execute

FOLDER = Path(__file__).parents[2] / "notebooks/exercises"
NOTEBOOKS = {path.stem: execute.read(path) for path in sorted(FOLDER.glob("*.ipynb"))}
ANSWERS = {path.stem[3:]: path.read_text() for path in sorted(FOLDER.glob("answers/*.py"))}
CELLS = {
    cell.id: (name, cell.source)
    for name, notebook in NOTEBOOKS.items()
    for cell in notebook.cells
    if cell.cell_type == "code" and cell.id not in ("setup", "imports")
}
each = pytest.mark.parametrize("name", ANSWERS)

MISTAKES = {  # exercise: what is changed in the answer, into what, and what the check says of it
    "desired": [
        ("(1 - t) * (1 - lam)", "(1 - lam)", "a \\+ b \\+ c = 1; at t = 0.2 yours is"),
        ("(1 - t) * lam", "lam", "at t = t0 = 0.4 the state must be 0.6 y"),
        ("c = t", "c = t * lam", "c = t; at t = 0.2 yours is 0.10"),
        ("(1 - t) * (1 - lam)", "lam - t", "at t = t0 = 0.4 .* a 0.60"),
    ],
    "gap": [
        ("1 - t / t0", "t / t0", "nothing has been walked yet"),
        ("1 - t / t0", "1 - (t / t0) ** 2", "at t = 0.3 the walk is 0.25 away .* says 0.44"),
        ("1 - t / t0", "(1 - t) * (1 - t / t0)", "the noise cancels"),
    ],
    "wasted": [
        ("wasted = 2", "wasted = 1", "2 of them are less than a hundredth of the largest"),
        ("(x - x0_hat)", "x", "at the first call the estimate is the state itself"),
        (".norm(dim=1).mean()", ".mean() * 0", "sees no call move anything"),
    ],
    "swapped": [
        ("lower = True", "lower = False", "which of the two samplers is shown y"),
        ("bridge.naive, bridge.desired", "bridge.desired, bridge.flow", "hold nothing of x0"),
        ("bridge.naive, bridge.desired", "bridge.naive, bridge.flow", "yours holds 0.00"),
        ('bridge.Bridge("swapped", bridge.naive, bridge.desired)', "bridge.naive", "is expected"),
    ],
    "indi": [
        ("share = 0.0", "share = 1.0", "0% of the way .* you say 100%; what is x0_hat"),
        ("c = 0 * t", "c = t", "hold no noise; yours have c = 0.10"),
        ("a = 1 - lam", "a = (1 - t) * (1 - lam)", "0.75 x0"),
    ],
    "words": [
        ("(100, 0)", "(0, 100)", "which of the two directions means clear"),
        ("(100, 0)", "(1, 0)", "is a longer token better"),
        ("limit = 10", "limit = 3", "at 3 nats points are .* off, more than 0.2"),
        ("limit = 10", "limit = 30", "are enough too"),
    ],
    "fourth": [
        ("lam**2", "lam", "this is desired; bend the way"),
        ("lam**2", "1", "this is naive|keep c = t|at t0"),
        ("abs((1 - t) * (t / t0) ** 2 - (1 - t0) * t / t0)", "0 * t", "you predict 0.000"),
        ("c = t", "c = t**2", "at t0 restoration has"),
    ],
    "count": [
        ("-(-pictures // batch_size) * steps", "steps", "4 calls, you say 2; a batch is walked"),
        ("pictures * prompts * steps", "pictures * steps", "each prompt wants every state"),
    ],
    "mixed": [
        ("w_paper = 1 / 2", "w_paper = 1", "is not the paper's mean"),
        ("return v + w", "return w", "with w = 0 no prompt has a say"),
        ("sum(v_k - v for v_k in v_each)", "(sum(v_each) - v)", "each of the two must add its own"),
        ("sum(v_k - v for v_k", "sum(v_k for v_k", "must be that prompt's"),
    ],
    "twin": [
        ("wan_too = False", "wan_too = True", "WAN was asked, and its velocity is another"),
        ("gates_other = -gates", "gates_other = 2 * gates", "the velocity of FLUX has changed"),
        ("P_other = -P", "P_other = P", "must be other numbers"),
        ("P_other = -P", "P_other = -P.T", "keep their shapes"),
    ],
    "longest": [
        ("w.abs().max()", "w.abs().mean() * 0.5", "give a row of length"),
        ("w.abs().max()", "2 * w.abs().max()", "is a bound too"),
    ],
    "v_alone": [
        ("[nothing, nothing, term[..., 2 * D :]]", "[term[..., 2 * D :]]", "keep their columns"),
        ("[nothing, nothing, term[..., 2 * D :]]", "[term[..., : 2 * D], nothing]", "must be 0"),
        ("term[..., 2 * D :]]", "term[..., :D]]", "must stay as it was"),
        (
            "return torch.cat([nothing, nothing, term[..., 2 * D :]], 2)",
            "term[..., : 2 * D] = 0\n    return term",
            "changed in place",
        ),
    ],
}


@pytest.fixture(scope="module")
def rooms():
    """What the first cells of each notebook leave, run where the notebooks are."""
    path, found = list(sys.path), {}
    with contextlib.chdir(FOLDER):
        for name, notebook in NOTEBOOKS.items():
            found[name] = {}
            for cell in notebook.cells:
                if cell.id in ("setup", "imports"):
                    exec(cell.source, found[name])
    yield found
    sys.path[:] = path


def said(source, room):
    """The one line that a cell prints."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        exec(source, dict(room))
    (line,) = out.getvalue().splitlines()
    return line


def test_twelve_exercises_in_order_with_level_time_and_answer():
    texts = []
    for notebook in NOTEBOOKS.values():
        assert len(notebook.cells) <= 40
        texts += [c.source for c in notebook.cells[1:] if c.cell_type == "markdown"]
    for number, text in enumerate(texts, 1):
        assert text.startswith(f"## {number}. ")
        assert re.search(r"^\*(easy|medium|hard), \d+ minutes\*$", text, re.MULTILINE)
    assert len(texts) == 12 and list(CELLS) == list(ANSWERS) == list(MISTAKES)


def test_they_are_committed_without_answers_and_results():
    for notebook in NOTEBOOKS.values():
        for cell in notebook.cells:
            assert not cell.get("outputs") and cell.get("execution_count") is None
            assert cell.cell_type == "markdown" or len(cell.source.splitlines()) <= execute.LINES
            assert not execute.MACHINE.search(cell.source)


@each
def test_an_answer_is_its_cell_with_the_blanks_filled(name):
    blank, answer = CELLS[name][1].splitlines(), ANSWERS[name].splitlines()
    kept = [line for line in blank if "..." not in line]
    assert len(kept) < len(blank) == len(answer)
    assert kept == [line for line, mine in zip(answer, blank, strict=True) if "..." not in mine]


@each
def test_a_blank_is_told_so(name, rooms):
    notebook, source = CELLS[name]
    assert said(source, rooms[notebook]).startswith("Not yet: the blank is still there")


@pytest.mark.parametrize("name", [name for name in ANSWERS if "    return" in ANSWERS[name]])
def test_a_function_that_returns_nothing_is_told_so(name, rooms):
    forgot = re.sub(r"^    return .*$", "    pass", ANSWERS[name], flags=re.MULTILINE)
    assert "or a function returns nothing" in said(forgot, rooms[CELLS[name][0]])


@each
def test_the_answer_is_right(name, rooms):
    assert said(ANSWERS[name], rooms[CELLS[name][0]]).startswith("Right. ")


@pytest.mark.parametrize(
    ("name", "old", "new", "why"),
    [(name, *mistake) for name, mistakes in MISTAKES.items() for mistake in mistakes],
)
def test_a_mistake_is_told_why(name, old, new, why, rooms):
    assert old in ANSWERS[name]
    line = said(ANSWERS[name].replace(old, new), rooms[CELLS[name][0]])
    assert line.startswith("Not yet: ") and re.search(why, line), line
    assert len(line.split()) >= 8  # a sentence that helps
