"""The notebooks as a lecture: slides, two paths through them, links into the glossary.

    python notebooks/lecture.py                          # dresses them; the paths into README
    python notebooks/lecture.py --deck 45 deck.ipynb     # the cells of a path as one notebook
    jupyter nbconvert --to slides --no-input deck.ipynb

To dress a notebook: each cell gets the slide type that Jupyter and nbconvert read, and the paths
that it is on as tags; the first use of each word of glossary.md becomes a link. Doing it twice
changes nothing. execute.py does it to what it runs. README.md tells the paths.
"""

import argparse
import re
import sys
from pathlib import Path

import nbformat
from nbformat import NotebookNode

FOLDER = Path(__file__).parent
GLOSSARY = FOLDER / "glossary.md"
README = FOLDER / "README.md"
BEGIN, END = "<!-- paths: python notebooks/lecture.py -->\n", "\n\n<!-- end -->"
PATHS: dict[str, dict[str, tuple[int, ...]]] = {  # notebook: its sections; 0 is before the first
    "45": {
        "00": (0, 1, 2, 3, 4, 6, 7),
        "03": (1, 4, 5, 6),
        "05": (1, 4),
        "06": (5,),
        "07": (2,),
    },
    "90": {
        "00": (0, 1, 2, 3, 4, 6, 7, 8),
        "02": (1, 2, 5, 8),
        "03": (1, 2, 4, 5, 6),
        "04": (1, 2, 3, 4),
        "05": (1, 2, 4, 7),
        "06": (1, 5, 6),
        "07": (1, 2, 3),
        "08": (7,),
    },
}

# ---- slides ------------------------------------------------------------------------------------


def shows(cell: NotebookNode) -> bool:
    """Whether a code cell has printed or drawn something for the reader, not just its budget."""
    outputs = cell.get("outputs", [])
    return any(not output.get("text", "").startswith("budget:") for output in outputs)


def slide_type(cell: NotebookNode) -> str:
    """A headline begins a slide; text and results follow one by one; silent code is left out."""
    if cell.cell_type == "code":
        return "fragment" if shows(cell) else "skip"
    return "slide" if re.match(r"##? ", cell.source) else "fragment"


def sections(notebook: NotebookNode) -> list[int]:
    """The number of the section that each cell is in, from headlines like "## 3. Walking".

    0 before the first; -1 under a headline without a number, as an appendix has.
    """
    found, section = [], 0
    for cell in notebook.cells:
        headline = re.match(r"## (\d+)?", cell.source) if cell.cell_type == "markdown" else None
        if headline:
            section = int(headline[1] or -1)
        found.append(section)
    return found


def tag(notebook: NotebookNode, name: str) -> None:
    """Slide types and paths of all cells of the notebook of that name."""
    for cell, section in zip(notebook.cells, sections(notebook), strict=True):
        cell.metadata["slideshow"] = {"slide_type": slide_type(cell)}
        on = [path for path, chosen in PATHS.items() if section in chosen.get(name[:2], ())]
        cell.metadata["tags"] = on


# ---- the glossary ------------------------------------------------------------------------------

LINK = re.compile(r"\[([^\]]+)\]\(glossary\.md#[\w-]+\)")
APART = re.compile(  # what no link may be put into
    r"```.*?```|`[^`]*`|\$\$.*?\$\$|\$[^$]*\$|!?\[[^\]]*\]\([^)]*\)|<[^>]*>|https?://\S+"
    r"|^#+ .*?$|^\d+\. .*?$|\*\*Figure \d+\.\*\*",
    re.DOTALL | re.MULTILINE,
)
NOT_BEFORE = {"residual": r"\s+stream"}  # where a word is meant otherwise


def glossary() -> list[str]:
    """The words that are explained, the longest first."""
    words = re.findall(r"^### (.+)$", GLOSSARY.read_text(encoding="utf-8"), re.MULTILINE)
    return sorted(words, key=len, reverse=True)


def pattern(word: str) -> re.Pattern:
    """A word of the glossary as a text may have it: with a capital, plural, over two lines."""
    spelled = r"\s+".join(re.escape(part) for part in word.split())
    not_before = NOT_BEFORE.get(word, "$^")
    return re.compile(rf"(?<![\w/.-]){spelled}s?(?![\w-]|\.\w|{not_before})", re.IGNORECASE)


def first_use(source: str, word: str) -> re.Match | None:
    """Where a text first uses the word outside of code, formulas, links, headlines and lists."""
    apart = [found.span() for found in APART.finditer(source)]
    for found in pattern(word).finditer(source):
        if not any(start < found.end() and found.start() < end for start, end in apart):
            return found
    return None


def link(notebook: NotebookNode) -> None:
    """The first use of each word links to the glossary, and no later one."""
    told = [cell for cell in notebook.cells if cell.cell_type == "markdown"]
    for cell in told:
        cell.source = LINK.sub(r"\1", cell.source)
    for word in glossary():
        for cell in told:
            found = first_use(cell.source, word)
            if found:
                before, after = cell.source[: found.start()], cell.source[found.end() :]
                anchor = word.replace(" ", "-")
                cell.source = f"{before}[{found[0]}](glossary.md#{anchor}){after}"
                break


def dress(notebook: NotebookNode, name: str) -> NotebookNode:
    """Tags and links, in place."""
    tag(notebook, name)
    link(notebook)
    return notebook


# ---- paths -----------------------------------------------------------------------------------


def minutes(cells: list[NotebookNode], read: bool = False) -> float:
    """To tell the cells' text and results, without silent code; or to read all, code included.

    Estimates: 130 words a minute, a picture 40 s, another result 15 s; a reader's line of code 4 s.
    """
    seconds = 0.0
    for cell in cells:
        if cell.cell_type == "markdown":
            seconds += 60 / 130 * len(cell.source.split())
        elif read:
            seconds += 4 * len(cell.source.splitlines())
        if cell.cell_type == "code" and shows(cell):
            drawn = any("image/png" in output.get("data", {}) for output in cell.outputs)
            seconds += 40 if drawn else 15
    return seconds / 60


def on_path(path: str, notebook: NotebookNode, name: str) -> list[NotebookNode]:
    """The cells of a notebook that belong to a path."""
    chosen = PATHS[path].get(name[:2], ())
    numbers = sections(notebook)
    return [cell for cell, n in zip(notebook.cells, numbers, strict=True) if n in chosen]


def headline(notebook: NotebookNode) -> str:
    """The title, without its number."""
    return re.sub(r"^# (\d+\. )?", "", notebook.cells[0].source.split("\n")[0])


def tables(notebooks: dict[str, NotebookNode]) -> str:
    """What notebooks/README.md says of the paths, as Markdown."""
    lines: list[str] = []
    for path, chosen in PATHS.items():
        lines += ["", f"| in {path} minutes | sections | minutes |", "| --- | --- | --- |"]
        total = 0.0
        for name, notebook in notebooks.items():
            if name[:2] in chosen:
                told = ", ".join(str(n) if n else "opening" for n in chosen[name[:2]])
                spent = minutes(on_path(path, notebook, name))
                lines.append(
                    f"| [{name[:2]}]({name}) {headline(notebook)} | {told} | {spent:.0f} |"
                )
                total += spent
        lines.append(f"| and for questions | | {float(path) - total:.0f} |")
    return "\n".join(lines).strip()


def tabled(text: str, notebooks: dict[str, NotebookNode]) -> str:
    """The text of README.md with the tables of these notebooks between BEGIN and END."""
    before, rest = text.split(BEGIN)
    after = rest.split(END, 1)[1]
    return before + BEGIN + tables(notebooks) + END + after


def deck(path: str, notebooks: dict[str, NotebookNode]) -> NotebookNode:
    """One notebook of the cells of a path, in order."""
    cells = []
    for name, notebook in notebooks.items():
        cells += on_path(path, notebook, name)
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    return nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": kernel})


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--deck", choices=tuple(PATHS), help="write the cells of this path")
    parser.add_argument("out", nargs="?", type=Path, help="where to; a file that is not there yet")
    flags = parser.parse_args(argv)
    if (flags.deck is None) != (flags.out is None):
        parser.error("--deck and a file belong together: --deck 45 deck.ipynb")
    files = sorted(FOLDER.glob("*.ipynb"))
    notebooks = {file.name: nbformat.read(file, as_version=4) for file in files}
    if flags.deck:
        if flags.out.exists():
            parser.error(f"{flags.out} exists, and is not replaced: name another file")
        nbformat.write(deck(flags.deck, notebooks), flags.out)
        return 0
    for file in files:
        nbformat.write(dress(notebooks[file.name], file.name), file)
    README.write_text(tabled(README.read_text("utf-8"), notebooks), "utf-8")
    print(tables(notebooks))
    return 0


if __name__ == "__main__":
    sys.exit(main())
