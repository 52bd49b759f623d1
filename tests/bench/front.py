"""Puts into the READMEs what is measured or counted elsewhere; tests/test_readme.py compares.

    python -m tests.bench.front

In README.md and the READMEs of the wings it makes anew
- a table: behind `<!-- table: FILE -->` the first one of FILE;
- the notebooks: behind `<!-- notebooks -->`, from the files themselves;
- what a command printed: the block of code behind `<!-- printed: FILE -->`;
- how long a file is: the number in `[name](file.py), 240 lines`, in tens;
and in notebooks/minimal.py what it prints, which is what train.py does; then it makes reading.md.
"""

import re
from pathlib import Path

import nbformat

from notebooks import lecture
from tests.bench import reading
from tinybridge.data.tables import load_table

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted(ROOT.glob("tinybridge/**/README.md"))]
PAGES.append(ROOT / "notebooks/README.md")
TABLED = re.compile(r"(<!-- table: (\S+) -->\n)(?:\|.*\n)*")
ROWS = re.compile(r"(?:^\|.*\n)+", re.MULTILINE)
LISTED = re.compile(r"(<!-- notebooks -->\n)(?:- .*\n)*")
PRINTED = re.compile(r"(<!-- printed: (\S+) -->\n```\w*\n)(.*?)(?=\n```)", re.DOTALL)
MINIMAL = ROOT / "notebooks/minimal.py"
GAINED = re.compile(r"\d+\.\d+, \d+\.\d+, \d+\.\d+ dB")
LENGTH = re.compile(r"(\]\(([\w./-]+\.py)\), )(\d+)(?= lines)")

ABOUT = {  # what a title does not say
    "00": "exact, no network",
    "01": "from noise to pictures",
    "02": "naive, ddbm, desired",
    "03": "which difference matters",
    "04": "what more steps do",
    "05": "from words to P",
    "06": "mixtures, the unknown",
    "07": "video, flicker",
    "08": "flux.py",
    "09": "wan.py",
    "10": "clips as streams",
}


def first_table(file: str) -> str:
    """The first one in a file, without blanks beside its bars, which `wc -w` would count.

    ValueError if there is none.
    """
    table = ROWS.search((ROOT / file).read_text(encoding="utf-8"))
    if table is None:
        raise ValueError(f"{file}: there is no table in it")
    return re.sub(r" *\| *", "|", table[0].strip())


def notebooks_list(folder: Path) -> str:
    """Number, title, subject and reading time of every notebook; links as seen from a folder."""
    lines = []
    for file in sorted((ROOT / "notebooks").glob("*.ipynb")):
        notebook = nbformat.read(file, as_version=4)
        title = f"{file.stem[:2]} {lecture.headline(notebook)}"
        minutes = lecture.minutes(notebook.cells, read=True)
        link, about = file.relative_to(folder), ABOUT[file.stem[:2]]
        lines.append(f"- [{title}]({link}) ({5 * round(minutes / 5)}): {about}")
    return "\n".join(lines)


def tens(count: int) -> int:
    return 10 * round(count / 10)


def fresh(text: str, folder: Path) -> str:
    """The text of a README in this folder, with all that is made elsewhere as it is now."""

    def length(found: re.Match) -> str:
        lines = (folder / found[2]).read_text(encoding="utf-8").count("\n")
        kept = abs(int(found[3]) - lines) <= 0.05 * lines  # a line more changes no README
        return found[1] + (found[3] if kept else str(tens(lines)))

    def printed(found: re.Match) -> str:
        lines = (ROOT / found[2]).read_text(encoding="utf-8").rstrip("\n").split("\n")
        steps = [k for k, line in enumerate(lines) if line.startswith("step ")]
        if len(steps) > 2:  # of the way the first and the last
            lines[steps[1] : steps[-1]] = ["..."]
        return found[1] + "\n".join(lines)

    text = TABLED.sub(lambda found: found[1] + first_table(found[2]) + "\n", text)
    text = LISTED.sub(lambda found: found[1] + notebooks_list(folder) + "\n", text)
    text = PRINTED.sub(printed, text)
    return LENGTH.sub(length, text)


def minimal_page() -> str:
    """notebooks/minimal.py with the PSNR that the bench's run of haze reports."""
    rows = load_table(ROOT / "tests/bench/degradations-flux.csv")
    found = {row["picture"]: row["psnr"] for row in rows if row["degradation"] == "haze"}
    said = ", ".join(f"{found[name]:.2f}" for name in ("degraded", "no prompt", "restored"))
    return GAINED.sub(f"{said} dB", MINIMAL.read_text(encoding="utf-8"))


def main() -> None:
    made = {page: fresh(page.read_text(encoding="utf-8"), page.parent) for page in PAGES}
    made[MINIMAL] = minimal_page()
    for page, new in made.items():
        if new != page.read_text(encoding="utf-8"):
            page.write_text(new, encoding="utf-8")
            print(f"{page.relative_to(ROOT)}: made anew")
    reading.TABLE.write_text(reading.page(), encoding="utf-8")


if __name__ == "__main__":
    main()
