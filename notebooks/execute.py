"""Run the notebooks of this folder, all or the named ones, and say what is wrong with them.

    python notebooks/execute.py                    # full budget, results written into the files
    python notebooks/execute.py --budget small     # a quick check that leaves the files alone
    python notebooks/execute.py --figures out/    # and every figure as an SVG, for slides
    python notebooks/execute.py 00_a_world_of_points.ipynb

A notebook reads the budget from TINYBRIDGE_BUDGET. What is committed has the outputs of the full
one, and is dressed as a lecture by lecture.py; tests/notebooks/test_notebooks.py runs the small
one and holds the files to `complaints`.
"""

import argparse
import os
import re
import sys
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from nbformat import NotebookNode

sys.path.insert(0, str(Path(__file__).parents[1]))

from notebooks import findings, lecture

FOLDER = Path(__file__).parent
FILE_LIMIT, PICTURE_LIMIT = 1_000_000, 150_000  # bytes of a notebook, of one PNG in it
CELLS = 40  # of a notebook
LINES = 16  # of code in a cell
CAPTION = re.compile(r"\*\*Figure (\d+)\.\*\* \S")
MACHINE = re.compile(r"/(?:home|root|Users|tmp|work|mnt|opt|usr)/\w")  # paths of one machine
QUOTED = re.compile(r"\d+\.\d+ dB")


def read(path: Path) -> NotebookNode:
    return nbformat.read(path, as_version=4)


def run(
    notebook: NotebookNode, folder: Path, budget: str, figures: Path | None = None
) -> NotebookNode:
    """Executes the cells in place, from `folder`. CellExecutionError: the first cell that fails.

    figures: how the names of its SVGs begin, see figures.show; None: there are none.
    """
    metadata = {"metadata": {"path": str(folder)}}
    client = NotebookClient(
        notebook, timeout=1800, resources=metadata, record_timing=False, coalesce_streams=True
    )
    client.extra_arguments = ["--log-level=40"]  # else the kernel warns that it talks over TCP
    asked = {"TINYBRIDGE_FIGURES": str(figures.absolute())} if figures else {}
    client.execute(env={**os.environ, "TINYBRIDGE_BUDGET": budget, **asked})
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    notebook.metadata = {"kernelspec": kernel, "language_info": {"name": "python"}}
    return notebook


def text(outputs: list) -> str:
    """All that a cell printed or showed as text."""
    parts = [o.get("text", "") or o.get("data", {}).get("text/plain", "") for o in outputs]
    return "".join(parts)


def pictures(cell: NotebookNode) -> list[str]:
    """The PNGs under a cell, in base64."""
    shown = [output.get("data", {}) for output in cell.get("outputs", [])]
    return [data["image/png"] for data in shown if "image/png" in data]


def complaints(notebook: NotebookNode) -> list[str]:
    """Why a notebook should not be committed; empty when it may be."""
    cells, found = notebook.cells, []
    code = [cell for cell in cells if cell.cell_type == "code"]
    if (size := len(nbformat.writes(notebook).encode())) > FILE_LIMIT:
        found.append(f"{size} bytes, more than {FILE_LIMIT}")
    if len(cells) > CELLS:
        found.append(f"{len(cells)} cells, more than {CELLS}")
    if [cell.execution_count for cell in code] != list(range(1, len(code) + 1)):
        found.append("its cells were not run once each from top to bottom")
    if "budget: full" not in "".join(text(cell.outputs) for cell in code):
        found.append("its outputs are not those of the full budget")
    for cell in code:
        if findings.MISSING in text(cell.outputs):
            found.append(f"cell {cell.id} asks a table for rows that it does not have")
        if cell.source.count("\n") >= LINES:
            found.append(f"cell {cell.id} has more than {LINES} lines")
        for output in cell.outputs:
            if output.output_type == "error" or output.get("name") == "stderr":
                found.append(f"cell {cell.id} left an error or a warning")
    if MACHINE.search("".join(cell.source + text(cell.get("outputs", [])) for cell in cells)):
        found.append("it names a path of one machine")
    return found + captions(cells) + quotes(cells)


def captions(cells: list) -> list[str]:
    """Each picture has below it a text cell that begins **Figure 1.** and so on."""
    found, count = [], 0
    for cell, below in zip(cells, [*cells[1:], None], strict=True):
        for png in pictures(cell):
            count += 1
            caption = CAPTION.match(below.source) if below is not None else None
            if caption is None or int(caption[1]) != count:
                found.append(f"below cell {cell.id} a text **Figure {count}.** is expected")
            if (size := len(png) * 3 // 4) > PICTURE_LIMIT:
                found.append(f"the picture of cell {cell.id} has {size} bytes")
    return found if count else ["it has no picture"]


def quotes(cells: list) -> list[str]:
    """Decibels in the text are those that a cell above or below has printed."""
    printed = "".join(text(cell.get("outputs", [])) for cell in cells)
    told = "".join(cell.source for cell in cells if cell.cell_type == "markdown")
    numbers = {hit.removesuffix(" dB") for hit in QUOTED.findall(told)}
    lost = sorted(number for number in numbers if number not in printed)
    return [f"its text says {number} dB, which no cell printed" for number in lost]


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("names", nargs="*", help="file names in this folder; default: all")
    parser.add_argument("--budget", choices=("small", "full"), default="full")
    parser.add_argument("--figures", type=Path, help="a folder for the figures as SVG files")
    flags = parser.parse_args(argv)
    if flags.figures:
        flags.figures.mkdir(parents=True, exist_ok=True)
    failed = False
    for path in [FOLDER / name for name in flags.names] or sorted(FOLDER.glob("*.ipynb")):
        began, notebook = time.perf_counter(), read(path)
        try:
            run(notebook, FOLDER, flags.budget, flags.figures and flags.figures / path.stem[:2])
            lecture.dress(notebook, path.name)
            wrong = complaints(notebook) if flags.budget == "full" else []
        except CellExecutionError as error:
            wrong = [str(error)]
        else:
            if flags.budget == "full":
                nbformat.write(notebook, path)
        seconds, size = time.perf_counter() - began, path.stat().st_size
        print(f"{path.name}: {seconds:.0f} s, {size / 1e6:.2f} MB", *wrong, sep="\n  ", flush=True)
        failed |= bool(wrong)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
