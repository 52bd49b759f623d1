"""How long README and notebooks take to read, beside the READMEs of others: reading.md.

    python -m tests.bench.reading                     # rows of other READMEs are kept
    python -m tests.bench.reading --others FOLDER     # with OTHERS' texts as FOLDER/NAME.md

Everything is counted by the rules of notebooks/lecture.py, prose at 130 words a minute, code at 4
seconds a line, a picture at 40 seconds: text that is to be understood. They serve to compare.
"""

import argparse
import re
from dataclasses import dataclass
from pathlib import Path

import nbformat
from nbformat import NotebookNode

from notebooks import lecture

ROOT = Path(__file__).parents[2]
TABLE = ROOT / "tests/bench/reading.md"
NOTEBOOKS = ROOT / "notebooks"
OTHERS = {  # name: commit of the text; where it says what it is for, and how it works ("": nowhere)
    "karpathy/nanoGPT": ("3adf61e", "The simplest, fastest repository", ""),
    "cloneofsimo/minRF": ("4fc10e0", "This repository contains a minimal implementation", ""),
    "rasbt/LLMs-from-scratch": (
        "28c65cd",
        "the code for developing",
        "The mental model below summarizes",
    ),
    "tinybridge before": ("02b070a", "is frozen, a prompt is", "between degraded y and clean x0"),
}
OURS = ("it only has to be told", "What is learned is a matrix")

SAID = """Words are all that a page shows, its code too. Lines are of the text, minutes those up to
there; "-": it is not told. Which lines these are is our judgement (`OURS` and `OTHERS` in
[reading.py](reading.py)): nanoGPT and minRF are for readers who know what a GPT or a flow is,
LLMs-from-scratch shows a picture of its book's subjects."""


@dataclass
class Reading:
    """words: all of them, those of code too; lines: of code."""

    words: int = 0
    prose: int = 0
    lines: int = 0
    pictures: int = 0

    @property
    def minutes(self) -> float:
        return self.prose / 130 + self.lines * 4 / 60 + self.pictures * 40 / 60

    def add(self, other: "Reading") -> None:
        self.words += other.words
        self.prose += other.prose
        self.lines += other.lines
        self.pictures += other.pictures


def count(text: str) -> int:
    """Words: what stands between blanks and has a letter or a digit."""
    return sum(any(sign.isalnum() for sign in word) for word in text.split())


def code(text: str) -> Reading:
    """Of a program, or of what one prints."""
    return Reading(words=count(text), lines=sum(bool(line.strip()) for line in text.splitlines()))


def markdown(text: str) -> Reading:
    """Of what a page shows: neither comments, nor tags, nor where a link leads."""
    found, prose = Reading(), re.sub(r"<!--.*?-->", "", text, flags=re.DOTALL)
    for block in re.findall(r"^```[^\n]*\n(.*?)^```", prose, re.DOTALL | re.MULTILINE):
        found.add(code(block))
    prose = re.sub(r"^```.*?^```", "", prose, flags=re.DOTALL | re.MULTILINE)
    found.pictures = len(re.findall(r"!\[|<img", prose)) - len(re.findall(r"\[!\[", prose))
    prose = re.sub(r"\]\([^)]*\)", "]", prose)
    prose = re.sub(r"<[a-z/][^>]*>|&nbsp;?", " ", prose)
    found.add(Reading(words=count(prose), prose=count(prose)))
    return found


def notebook(file: Path) -> tuple[Reading, NotebookNode]:
    """Of a notebook, its outputs' pictures too; and the notebook."""
    opened, found = nbformat.read(file, as_version=4), Reading()
    for cell in opened.cells:
        found.add(markdown(cell.source) if cell.cell_type == "markdown" else code(cell.source))
        for output in cell.get("outputs", []):
            found.pictures += any(kind.startswith("image/") for kind in output.get("data", {}))
    return found, opened


def place(text: str, said: str) -> tuple[str, str]:
    """The line that begins with or holds these words, and the minutes up to its end."""
    if not said:
        return "-", "-"
    before, found, after = text.partition(said)
    if not found:
        raise ValueError(f"no line says {said!r}")
    so_far = before + found + after.split("\n")[0]
    return str(so_far.count("\n") + 1), f"{markdown(so_far).minutes:.1f}"


def row(name: str, text: str, purpose: str, idea: str) -> str:
    """A line of the table of READMEs."""
    read = markdown(text)
    cells = [name, f"{read.words:,}", str(read.lines), str(read.pictures), f"{read.minutes:.0f}"]
    cells += [" / ".join(place(text, said)) for said in (purpose, idea)]
    return f"| {' | '.join(cells)} |"


def readmes(folder: Path | None) -> list[str]:
    """The rows of README and of the others; without a folder those of the others as they were."""
    rows = [row("tinybridge", (ROOT / "README.md").read_text(encoding="utf-8"), *OURS)]
    if folder is None:
        old = TABLE.read_text(encoding="utf-8").splitlines()
        return rows + [line for line in old if line.startswith(tuple(f"| {o} " for o in OTHERS))]
    for name, (commit, purpose, idea) in OTHERS.items():
        text = (folder / f"{name.split('/')[-1]}.md").read_text(encoding="utf-8")
        rows.append(row(f"{name} ({commit})", text, purpose, idea))
    return rows


def notebooks() -> list[str]:
    """The rows of all notebooks."""
    rows = []
    for file in sorted(NOTEBOOKS.glob("*.ipynb")):
        read, opened = notebook(file)
        size, minutes = file.stat().st_size / 1e6, lecture.minutes(opened.cells, read=True)
        numbers = [len(opened.cells), read.prose, read.lines, read.pictures, f"{size:.2f}"]
        said = " | ".join(str(number) for number in numbers)
        rows.append(f"| {file.stem} | {said} | {minutes:.0f} |")
    return rows


def page(folder: Path | None = None) -> str:
    """The whole of reading.md; folder: where the texts of others are."""
    lines = [
        "| README | words | lines of code | pictures | minutes | what for: line / minute "
        "| how it works: line / minute |",
        "|---|---|---|---|---|---|---|",
        *readmes(folder),
        "",
        SAID,
        "",
        "| notebook | cells | words | lines of code | pictures | MB | minutes |",
        "|---|---|---|---|---|---|---|",
        *notebooks(),
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--others", type=Path, help="folder with the texts of other READMEs")
    flags = parser.parse_args()
    TABLE.write_text(page(flags.others), encoding="utf-8")
    print(TABLE.read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
