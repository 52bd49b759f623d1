"""Tables of results: CSV files that are added to, a row that is there is not made again.

Every row names the model, the seed and the commit it is of. A job is known by its key, some of the
columns; it is done when its table has a row with that key.
"""

from pathlib import Path

import pandas as pd

RESULTS = Path(__file__).parents[1] / "results"
FIRST = ("backbone", "model", "seed")  # columns that every table begins with,
LAST = ("seconds", "commit")  # and ends with


def columns(own: tuple[str, ...]) -> list[str]:
    """All columns of a table whose own ones are these."""
    return [*FIRST, *own, *LAST]


def read(file: Path) -> pd.DataFrame:
    """The rows of a table, without any if there is no such file. Numbers as they are written."""
    if not file.is_file():
        return pd.DataFrame(columns=columns(known(file)))
    texts = dict.fromkeys(("model", "commit", "psnr_each", "sentence", "against"), str)
    return pd.read_csv(file, keep_default_na=False, dtype=texts)


def known(file: Path) -> tuple[str, ...]:
    """The own columns of a table of that name, if an experiment writes one."""
    from notebooks.experiments import everything  # here, for they import this file

    return everything.COLUMNS.get(file.name, ())


def append(file: Path, names: list[str], rows: list[dict]) -> None:
    """More rows of these columns, in one write; what a row lacks stays empty."""
    file.parent.mkdir(parents=True, exist_ok=True)
    more = pd.DataFrame(rows, columns=names)
    more.to_csv(file, mode="a", header=not file.is_file(), index=False, lineterminator="\n")


def is_done(rows: pd.DataFrame, key: dict) -> bool:
    """Whether a row has all the values of a key."""
    for name, value in key.items():
        written = rows[name]
        if not pd.api.types.is_numeric_dtype(written):
            written, value = written.astype(str), str(value)
        rows = rows[written == value]
    return len(rows) > 0


def check_models(out: Path, models: dict[str, str]) -> None:
    """ValueError if a table has rows of another model than that backbone is today."""
    for file in sorted(out.glob("*.csv")):
        rows = pd.read_csv(file, dtype=str)
        if "model" not in rows:
            continue
        for row in rows[["backbone", "model"]].drop_duplicates().to_dict("records"):
            today = models.get(row["backbone"], row["model"])
            if row["model"] != today:
                raise ValueError(
                    f"{file}: rows of {row['backbone']} {row['model']}, which is {today} now: "
                    "move the file away to begin a new one"
                )
