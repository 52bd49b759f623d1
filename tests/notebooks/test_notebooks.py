"""Every notebook runs from top to bottom at the small budget, and is committed with its results."""

import base64
import re
import shutil
from pathlib import Path

import nbformat
import pytest
from nbclient.exceptions import CellExecutionError

from notebooks import execute

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
each = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem[:2])


@pytest.fixture(scope="module")
def scratch(tmp_path_factory):
    """A copy of what a notebook may need, so that nothing is written into the repository."""
    folder = tmp_path_factory.mktemp("copy")
    for name in ("tinybridge", "notebooks", "weights.py", "train.py", "sample.py"):
        if (ROOT / name).is_dir():
            shutil.copytree(
                ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__")
            )
        else:
            shutil.copy(ROOT / name, folder)
    return folder / "notebooks"


@each
def test_runs_at_the_small_budget(path, scratch):
    notebook = execute.run(execute.read(scratch / path.name), scratch, "small")
    # What the text quotes, and the word "full", are of the committed run.
    other = ("its outputs are not those", "its text says")
    assert [k for k in execute.complaints(notebook) if not k.startswith(other)] == []


@each
def test_committed_with_its_results(path):
    assert execute.complaints(execute.read(path)) == []


def test_a_cell_that_fails_is_an_error(scratch):
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("assert 1 + 1 == 3")])
    with pytest.raises(CellExecutionError, match="assert 1"):
        execute.run(notebook, scratch, "small")


def spoil_error(code, text):
    error = {"ename": "ValueError", "evalue": "no", "traceback": []}
    code[1].outputs.append(nbformat.v4.new_output("error", **error))


def spoil_warning(code, text):
    code[1].outputs.append(nbformat.v4.new_output("stream", name="stderr", text="deprecated"))


def spoil_output(code, text):
    code[0].outputs = []


def spoil_count(code, text):
    code[2].execution_count = 99


def spoil_caption(code, text):
    figure = next(k for k in text if k.source.startswith("**Figure 1."))
    figure.source = "Nothing to see."


def spoil_pictures(code, text):
    for cell in code:
        cell.outputs = [o for o in cell.outputs if "image/png" not in o.get("data", {})]


def spoil_size(code, text):
    png = base64.b64encode(bytes(execute.FILE_LIMIT)).decode()
    picture = next(k for k in code if execute.pictures(k))
    picture.outputs = [nbformat.v4.new_output("display_data", {"image/png": png})]


def spoil_place(code, text):
    line = "/home/ann/tinybridge/weights.py"
    code[1].outputs.append(nbformat.v4.new_output("stream", name="stdout", text=line))


def spoil_rows(code, text):
    line = "desired - naive: no rows yet"
    code[1].outputs.append(nbformat.v4.new_output("stream", name="stdout", text=line))


def spoil_length(code, text):
    code[1].source += "\npass" * 20


def spoil_number(code, text):
    text[0].source += " It gains 1234.56 dB."


SPOILT = {
    spoil_error: "left an error or a warning",
    spoil_warning: "left an error or a warning",
    spoil_output: "not those of the full budget",
    spoil_count: "not run once each",
    spoil_caption: r"\*\*Figure 1.\*\* is expected",
    spoil_pictures: "it has no picture",
    spoil_size: "bytes",
    spoil_place: "names a path of one machine",
    spoil_rows: "asks a table for rows that it does not have",
    spoil_length: "more than 16 lines",
    spoil_number: "says 1234.56 dB, which no cell printed",
}


@pytest.mark.parametrize("spoil", SPOILT, ids=lambda spoil: spoil.__name__)
def test_the_check_can_fail(spoil):
    notebook = execute.read(NOTEBOOKS[0])
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    spoil(code, [cell for cell in notebook.cells if cell.cell_type == "markdown"])
    assert re.search(SPOILT[spoil], "; ".join(execute.complaints(notebook)))


def test_too_many_cells_are_told():
    notebook = execute.read(NOTEBOOKS[0])
    notebook.cells += [nbformat.v4.new_markdown_cell("More.")] * execute.CELLS
    assert any("cells, more than 40" in fault for fault in execute.complaints(notebook))
