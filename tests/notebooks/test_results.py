"""What is committed in notebooks/results: whole, of today's models, and made of its own rows."""

import shutil
from pathlib import Path

import pandas as pd
import pytest

from notebooks import claims
from notebooks.experiments import everything, lab, report, table

RESULTS = Path(__file__).parents[2] / "notebooks/results"
NAMES = [everything.name_of(experiment) for experiment in everything.ALL]
TABLES = sorted(name for name in everything.COLUMNS if (RESULTS / name).is_file())
MEASURED = (  # columns that a key ends before
    *("rate", "numbers", "psnr", "share", "chosen", "pictures", "flicker", "train_loss"),
    *("relative", "seconds"),
)
MADE = ("means.csv", "pairs.csv", "argument.csv", "argument.md", "hours.csv")  # of the others' rows


@pytest.mark.parametrize("name", TABLES)
def test_a_table_is_of_todays_models(name):
    rows = table.read(RESULTS / name)
    assert list(rows.columns) == table.columns(everything.COLUMNS[name])
    assert len(rows) and (rows["commit"].astype(str).str.len() >= 7).all()
    for backbone, found in rows.groupby("backbone"):
        if backbone in lab.BUNDLED:
            assert set(found["model"]) == {lab.fingerprint(backbone)}, (
                "the tiny models are newer: python -m notebooks.experiments makes the tables again"
            )


def test_the_argument_is_whole_at_seed_0():
    """Whatever time there was: everything of rank 0 is there, and no job is there twice."""
    tables = {name: table.read(RESULTS / name) for name in everything.COLUMNS}
    for job in everything.jobs(lab.FULL, [n for n in NAMES if n != "seen"], 3):
        rows = tables[everything.table_of(everything.module(job.experiment))]
        key = dict(job.key)
        if everything.rank(lab.FULL, job.experiment, key) == 0:
            assert table.is_done(rows, key | {"backbone": job.backbone}), job.name
    for name, rows in tables.items():
        own = list(rows.columns)
        measured = ["train_loss"] if name == "rates.csv" else MEASURED
        ends = min(own.index(column) for column in measured if column in own)
        assert not rows.duplicated(own[:ends]).any(), f"{name}: a row is there twice"


def test_what_is_made_of_the_rows_is_what_is_committed(tmp_path):
    for file in RESULTS.glob("*.csv"):
        if file.name not in MADE:
            shutil.copy(file, tmp_path)
    report.write(tmp_path)
    for name in MADE:
        assert (tmp_path / name).read_text() == (RESULTS / name).read_text(), name
    for figure in RESULTS.glob("*.png"):
        assert figure.stat().st_size < 150_000


def test_machine_tells_of_every_commit():
    machine = pd.read_csv(RESULTS / "machine.csv", dtype=str)
    assert machine.notna().all(axis=None)
    for name in TABLES:
        assert set(table.read(RESULTS / name)["commit"]) <= set(machine["commit"]), name


def test_only_tables_that_somebody_makes_lie_here():
    known = {
        *everything.COLUMNS,
        *MADE,
        "machine.csv",
        "README.md",
        "ledger.md",
        "cross.png",
        "seen.png",
    }
    assert {file.name for file in RESULTS.iterdir()} <= known
    told = (RESULTS / "README.md").read_text()
    for name in {
        *everything.COLUMNS,
        "means.csv",
        "pairs.csv",
        "hours.csv",
        "machine.csv",
        "ledger.md",
    }:
        assert name in told, f"README.md of the results does not say what {name} is"


@pytest.mark.parametrize("page", claims.READMES)
def test_claims_hold(page):
    file = claims.ROOT / page
    found = claims.find(file.read_text()) if file.is_file() else []
    faults = {claim.sentence: claims.check(claim) for claim in found}
    assert not any(faults.values()), faults


def test_a_claim_misses_a_row_that_is_taken_out(tmp_path, monkeypatch):
    """Of what README says now: without the rows behind it, every claim fails."""
    found = claims.find((claims.ROOT / "README.md").read_text())
    assert found
    monkeypatch.setattr(claims, "ROOT", tmp_path)
    for claim in found:
        source, copy = RESULTS.parents[1] / claim.file, tmp_path / claim.file
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, copy)
        held = claims.rows_of(claim)
        rows = pd.read_csv(copy, dtype=str, keep_default_na=False)
        gone = [row not in held for row in rows.to_dict("records")]
        rows[gone].to_csv(copy, index=False)
        assert any("no row with" in fault for fault in claims.check(claim)), claim.sentence
