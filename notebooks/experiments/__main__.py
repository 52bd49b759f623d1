"""All experiments behind the argument: every table, row by row, on the bundled tiny models.

    python -m notebooks.experiments                   # all; hours of one core, see machine.csv
    python -m notebooks.experiments --jobs 2          # two processes of one thread each
    python -m notebooks.experiments --only cross      # one of them; its rates are chosen first
    python -m notebooks.experiments --small --out runs/small   # a few steps of everything

Writes CSV tables, figures and argument.md to notebooks/results/. A row that is there is not made
again, so the command may be stopped and given again; learned prompts and latents lie in
runs/experiments/. What the columns mean: notebooks/results/README.md.
"""

import argparse
import os
import platform
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch starts: a job has one thread

import torch
from tqdm import tqdm

from notebooks.experiments import everything, report, table
from notebooks.experiments.everything import Job
from notebooks.experiments.lab import BUNDLED, FULL, ROOT, SMALL, STORE, fingerprint, title
from notebooks.experiments.work import finished

MACHINE = ("date", "commit", "processor", "cores", "jobs", "torch")


def missing(jobs: list[Job], out: Path) -> list[Job]:
    """Those that no row is there of."""
    tables = {}
    found = []
    for job in jobs:
        file = everything.table_of(everything.module(job.experiment))
        if file not in tables:
            tables[file] = table.read(out / file)
        key = dict(job.key) | {"backbone": title(job.backbone)}
        if not table.is_done(tables[file], key):
            found.append(job)
    return found


def commit() -> str:
    """Of the code that runs."""
    git = ["git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"]
    said = subprocess.run(git, capture_output=True, text=True, check=False).stdout.strip()
    return said or "unknown"


def machine(jobs: int) -> dict:
    """Where the numbers come from."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M"),
        "commit": commit(),
        "processor": names[0] if names else platform.machine(),
        "cores": os.cpu_count(),
        "jobs": jobs,
        "torch": torch.__version__,
    }


def main(argv: list[str] | None = None) -> int:
    names = [everything.name_of(experiment) for experiment in everything.ALL]
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    add = parser.add_argument
    add("--only", nargs="+", choices=names, default=names, help="default: all")
    add("--seeds", type=int, default=everything.SEEDS, help="how many, from 0 on")
    add("--jobs", type=int, default=1, help="processes of one thread each")
    add("--minutes", type=float, default=1e6, help="begin nothing after so many; run it again")
    add("--small", action="store_true", help="a few steps of everything, to see that it runs")
    add("--out", type=Path, default=table.RESULTS, help="tables and figures")
    add("--store", type=Path, default=STORE, help="learned prompts and latents")
    flags = parser.parse_args(argv)
    budget = SMALL if flags.small else FULL
    about, made, failed = machine(flags.jobs), 0, 0
    try:
        table.check_models(flags.out, {name: fingerprint(name) for name in BUNDLED})
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    rates = everything.rate_jobs(budget, flags.only)
    for phase in (rates, everything.jobs(budget, flags.only, flags.seeds)):
        todo = missing(phase, flags.out)
        told = flags.jobs, flags.minutes, budget, flags.store, flags.out
        bar = tqdm(finished(todo, *told), "jobs", len(todo))
        for job, rows_of in bar:
            if isinstance(rows_of, str):
                bar.write(f"{job.name}:\n{rows_of}", file=sys.stderr)
                failed += 1
                continue
            columns = everything.module(job.experiment).COLUMNS
            for file, rows in reversed(rows_of.items()):  # the one that says "done" last
                rows = [row | {"commit": about["commit"]} for row in rows]
                table.append(flags.out / file, table.columns(columns[file]), rows)
                if made == 0:
                    table.append(flags.out / "machine.csv", list(MACHINE), [about])
                made += len(rows)
            bar.set_postfix_str(job.name)
    report.write(flags.out)
    print(f"{made} rows made, {failed} jobs failed; tables in {flags.out}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
