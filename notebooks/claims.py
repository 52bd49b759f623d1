"""Which rows of which table stand behind every claim of README: printed, and checked.

    python notebooks/claims.py                        # README.md and the READMEs of the wings
    python notebooks/claims.py README.md notebooks/README.md

A claim is a sentence followed by a comment, on one line, in its paragraph:

    Prompts trained on the bridge lead those trained on naive.
    <!-- claim: notebooks/results/pairs.csv one=desired other=naive | difference > 0 -->

A CSV file; `column=value` pairs, which choose its rows; conditions that every chosen row must meet:
`LEFT OP RIGHT`, separated by `;`. LEFT: a column or `one - other`; RIGHT: a number, a column, or a
column times a number; OP: < > <= >= or =, which means equal when rounded to the digits that are
written. `rows = 5` counts the chosen rows. A number with a point and a unit in the sentence must
stand in a = condition of its paragraph. Exit status 1, and a line for each, if something fails.
"""

import csv
import re
import shlex
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from operator import ge, gt, le, lt
from pathlib import Path

ROOT = Path(__file__).parents[1]
READMES = (
    "README.md",
    "notebooks/README.md",
    "notebooks/results/README.md",
    "tinybridge/tiny/README.md",
)
COMMENT = re.compile(r"<!-- claim: (.*?) -->")
ORDERS: dict[str, Callable] = {"<=": le, ">=": ge, "<": lt, ">": gt}
CONDITION = re.compile(r"(.+?)\s*(<=|>=|<|>|=)\s*(.+)")
MEASURED = re.compile(r"[+-]?(\d+\.\d+) (?:dB|SSIM)\b")
Row = dict[str, str]


@dataclass(frozen=True)
class Claim:
    """A sentence, the table that it rests on, which rows of it, and what must hold of each."""

    sentence: str
    file: str
    which: dict[str, str]
    said: list[str]
    line: int
    faults: list[str] = field(default_factory=list)  # of the comment itself


def find(text: str) -> list[Claim]:
    """The claims of a markdown text, in order."""
    claims = []
    for first, paragraph in paragraphs(text):
        start = 0
        numbers = MEASURED.findall(COMMENT.sub("", paragraph))
        in_paragraph: list[Claim] = []
        for comment in COMMENT.finditer(paragraph):
            before = paragraph[start : comment.start()].strip()
            start = comment.end()
            line = first + paragraph.count("\n", 0, comment.start())
            told = in_paragraph[-1].sentence if in_paragraph and not before else sentence_of(before)
            in_paragraph.append(parse(comment[1], told, line))
        if not in_paragraph:
            continue
        written = {number.lstrip("+-") for claim in in_paragraph for number in equals(claim)}
        for number in numbers:
            if number not in written:
                in_paragraph[-1].faults.append(f"{number} stands in no = condition here")
        claims += in_paragraph
    return claims


def paragraphs(text: str) -> list[tuple[int, str]]:
    """Each with the number of its first line; fenced code is left out."""
    found: list[tuple[int, str]] = []
    lines: list[str] = []
    fenced = False
    for number, line in enumerate([*text.splitlines(), ""], 1):
        if line.lstrip().startswith("```"):
            fenced = not fenced
            continue
        if line.strip() and not fenced:
            lines.append(line)
        elif lines:
            found.append((number - len(lines), "\n".join(lines)))
            lines = []
    return found


def sentence_of(before: str) -> str:
    """The last sentence of what stands before a comment, on one line."""
    words = " ".join(before.split())
    return re.split(r"(?<=[.!?])\s+(?=[A-Z*\[])", words)[-1] if words else "(no sentence)"


def parse(comment: str, sentence: str, line: int) -> Claim:
    """A claim from the inside of its comment."""
    place, _, said = comment.partition("|")
    file, *pairs = shlex.split(place)
    faults = [f"{pair!r}: column=value is expected" for pair in pairs if "=" not in pair]
    which = dict(pair.split("=", 1) for pair in pairs if "=" in pair)
    conditions = [part.strip() for part in said.split(";") if part.strip()]
    return Claim(sentence, file, which, conditions, line, faults)


def equals(claim: Claim) -> list[str]:
    """The numbers of its = conditions."""
    matches = [CONDITION.fullmatch(condition) for condition in claim.said]
    return [match[3] for match in matches if match and match[2] == "="]


# ---- checking ----------------------------------------------------------------------------------


def rows_of(claim: Claim) -> list[Row]:
    """The rows that a claim chooses. ValueError: no such file, column or row."""
    path = ROOT / claim.file
    if not path.is_file():
        raise ValueError(f"{claim.file}: no such table")
    with path.open(newline="") as file:
        reader = csv.DictReader(file)
        rows = list(reader)
    unknown = set(claim.which) - set(reader.fieldnames or ())
    if unknown:
        raise ValueError(f"{claim.file}: no column {', '.join(sorted(unknown))}")
    chosen = [
        row for row in rows if all(alike(row[name], value) for name, value in claim.which.items())
    ]
    if not chosen:
        pairs = " ".join(f"{name}={value}" for name, value in claim.which.items())
        raise ValueError(f"{claim.file}: no row with {pairs}")
    return chosen


def alike(written: str, value: str) -> bool:
    """The same text, or the same number."""
    if written == value:
        return True
    try:
        return float(written) == float(value)
    except ValueError:
        return False


def number(text: str, row: Row) -> float:
    """A number, a column, a column times a number, or one column minus another.

    ValueError for anything else.
    """
    text = text.strip()
    for sign in (" - ", "*"):
        left, found, right = text.partition(sign)
        if found:
            a, b = number(left, row), number(right, row)
            return a - b if sign == " - " else a * b
    if text in row:
        return float(row[text])
    return float(text)


def holds(condition: str, row: Row) -> bool:
    """Whether a row meets a condition. ValueError if it cannot be read."""
    match = CONDITION.fullmatch(condition)
    if not match:
        raise ValueError(f"{condition!r}: LEFT OP RIGHT is expected")
    left, order, right = match.groups()
    if order != "=":
        return ORDERS[order](number(left, row), number(right, row))
    digits = len(right.partition(".")[2])
    return f"{number(left, row):.{digits}f}" == f"{number(right, row):.{digits}f}"


def check(claim: Claim) -> list[str]:
    """What is wrong with a claim, a line each; nothing: it holds."""
    try:
        rows = rows_of(claim)
    except ValueError as error:
        return [*claim.faults, str(error)]
    faults = list(claim.faults)
    for condition in claim.said:
        left = condition.split()[0]
        # How many rows there are is a condition on all of them at once.
        asked = [{"rows": str(len(rows))}] if left == "rows" else rows
        for row in asked:
            try:
                if not holds(condition, row):
                    faults.append(f"{condition!r} does not hold of {brief(row)}")
            except ValueError as error:
                faults.append(f"{condition!r}: {error}")
    return faults


def brief(row: Row) -> str:
    """A row in words; long values, as those of every scene, are cut."""
    return ", ".join(f"{name} {value[:24]}" for name, value in row.items() if value)


def main(argv: list[str] | None = None) -> int:
    names = sys.argv[1:] if argv is None else argv
    failed = count = 0
    for name in names or READMES:
        path = ROOT / name
        if not path.is_file():
            continue
        for claim in find(path.read_text()):
            count += 1
            faults = check(claim)
            print(f"{name}:{claim.line}: {claim.sentence}")
            for fault in faults:
                print(f"  FAILS: {fault}")
            if not faults:
                for row in rows_of(claim):
                    print(f"  {claim.file}: {brief(row)}")
            failed += bool(faults)
    print(f"{count} claims, {failed} fail")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
