"""Diagrams of README and notebooks as SVG files; each is drawn by a file of its own in drawing/.

    python notebooks/diagrams.py [FOLDER]     # notebooks/figures

method.svg: README's, a restoration and what is learned from; entry.svg: where P enters a block;
paths.svg: the three bridges; ladder.svg: the spaces that a prompt may live in; cheat_sheet.svg:
the method on one page. Whatever is a number, a path or a line of code comes from the package at
the time of drawing.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from notebooks.drawing.cheat_sheet import cheat_sheet
from notebooks.drawing.entry import entry
from notebooks.drawing.ladder import ladder
from notebooks.drawing.method import method
from notebooks.drawing.paths import paths

FIGURES = Path(__file__).parent / "figures"


def main(argv: list[str]) -> None:
    folder = Path(argv[0]) if argv else FIGURES
    folder.mkdir(parents=True, exist_ok=True)
    for draw in (method, entry, paths, ladder, cheat_sheet):
        (folder / f"{draw.__name__}.svg").write_text(draw(), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
