"""Torture: spoilt inputs through the front doors, and SIGKILL at random moments.

    python -m tests.torture                        # 10,000 inputs, 1,000 kills: about two hours
    python -m tests.torture --inputs 200 --kills 10 --state torture.jsonl

Every trial is a function of (seed, kind, number). --state keeps what is done, so that a stopped run
goes on, and two runs of different --kinds can share it; --out gets the table. Exit status 1 if
anything but "accepted" or "refused" came up.
"""

import argparse
import json
import os
import platform
import random
import shutil
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path

import torch
from tqdm import tqdm

from tests.torture.doors import prepare
from tests.torture.isolation import trial
from tests.torture.kills import KILLED
from tests.torture.trials import KINDS

SHARES = {  # of the inputs, and how many inputs a trial spoils
    "pictures": (0.44, 8),
    "clips": (0.06, 3),
    "lists": (0.06, 1),
    "prompts": (0.12, 1),
    "checkpoints": (0.18, 1),
    "configs": (0.14, 1),
}
KILLS = {"train": 0.5, "pictures": 0.3, "clips": 0.2}
ALL = [*KINDS, *(f"kill {kind}" for kind in KILLS)]
GOOD = ("accepted", "refused")
BAD = ("traceback", "hang", "crash", "silent", "wrong", "lost")


class State:
    """What is done, a JSON line each: kind, number, verdicts."""

    def __init__(self, file: Path):
        self.file = file
        self.rows = []
        if file.exists():
            # A line that a kill cut short is done again.
            for line in file.read_text().splitlines():
                if line.endswith("}"):
                    self.rows.append(json.loads(line))

    def done(self, kind: str) -> set[int]:
        return {row["number"] for row in self.rows if row["kind"] == kind}

    def add(self, **row: object) -> None:
        self.rows.append(row)
        with self.file.open("a") as stream:
            stream.write(json.dumps(row) + "\n")


def spoil(state: State, kinds: list[str], inputs: int, seed: int, scratch: Path) -> None:
    """All trials of spoilt inputs that are not done yet."""
    for kind in (kind for kind in KINDS if kind in kinds):
        share, each = SHARES[kind]
        done = state.done(kind)
        for number in tqdm(range(-(-round(share * inputs) // each)), kind):
            if number not in done:
                began = time.monotonic()
                verdicts = trial(kind, number, seed, scratch)
                seconds = round(time.monotonic() - began, 2)
                state.add(kind=kind, number=number, seconds=seconds, verdicts=verdicts)


def kill(state: State, kinds: list[str], kills: int, seed: int, scratch: Path) -> None:
    """Runs that are killed, until as many kills have been survived."""
    for kind, share in KILLS.items():
        name, wanted, number = f"kill {kind}", round(share * kills), 0
        if name not in kinds:
            continue
        count = sum(row["kills"] for row in state.rows if row["kind"] == name)
        done = state.done(name)
        bar = tqdm(total=wanted, initial=min(count, wanted), desc=name)
        while count < wanted:
            if number not in done:
                folder = scratch / f"kill-{kind}-{number}"
                shutil.rmtree(folder, ignore_errors=True)
                folder.mkdir()
                try:
                    survived = KILLED[kind](
                        random.Random(f"{seed}/{name}/{number}"), folder, scratch
                    )
                    verdicts = [("accepted", "")]
                except AssertionError as error:
                    survived, verdicts = 1, [("wrong", f"{name} {number}: {error}")]
                state.add(kind=name, number=number, kills=survived, verdicts=verdicts)
                count += survived
                bar.update(survived)
                shutil.rmtree(folder, ignore_errors=True)
            number += 1


def report(state: State, seed: int) -> tuple[str, int]:
    """The table, and how many verdicts were bad."""
    head = ("kind", "trials", "inputs", *GOOD, *BAD, "slowest, s")
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    bad, notes = 0, []
    for kind in KINDS:
        rows = [row for row in state.rows if row["kind"] == kind]
        if not rows:
            continue
        verdicts = [verdict for row in rows for verdict in row["verdicts"]]
        count = Counter(verdict for verdict, _ in verdicts)
        notes += [f"{kind}: {v}: {note}" for v, note in verdicts if v in BAD]
        bad += sum(count[verdict] for verdict in BAD)
        cells = [kind, len(rows), len(verdicts), *(count[name] for name in (*GOOD, *BAD))]
        slowest = max(row["seconds"] for row in rows)
        lines.append("| " + " | ".join(map(str, [*cells, slowest])) + " |")
    lines += [
        "",
        "| killed | runs | SIGKILLs survived | not whole afterwards |",
        "|---|---|---|---|",
    ]
    for kind in KILLS:
        rows = [row for row in state.rows if row["kind"] == f"kill {kind}"]
        broken = [v for row in rows for v in row["verdicts"] if v[0] in BAD]
        notes += [note for _, note in broken]
        bad += len(broken)
        kills = sum(row["kills"] for row in rows)
        lines.append(f"| {kind} | {len(rows)} | {kills} | {len(broken)} |")
    cores = len(os.sched_getaffinity(0))
    where = f"{platform.machine()}, {cores} cores, Python {platform.python_version()}"
    lines += ["", f"Seed {seed}; {where}, torch {torch.__version__}; one thread."]
    for note in notes[:20]:
        lines.append(f"- {' '.join(note.split())[:300]}")
    return "\n".join(lines) + "\n", bad


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="tests.torture", description=__doc__.split("\n")[0])
    parser.add_argument("--inputs", type=int, default=10_000)
    parser.add_argument("--kills", type=int, default=1_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kinds", nargs="+", choices=ALL, default=ALL, metavar="KIND")
    parser.add_argument("--state", type=Path, help="JSON lines of what is done; goes on from them")
    parser.add_argument("--out", type=Path, help="the table in Markdown; default: printed alone")
    flags = parser.parse_args(argv)
    torch.set_num_threads(1)
    # A bar's own lock is shared by all forked processes: one that is killed would keep it for ever.
    tqdm.monitor_interval = 0
    tqdm.set_lock(threading.RLock())
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        state = State(flags.state or scratch / "state.jsonl")
        prepare(scratch)
        spoil(state, flags.kinds, flags.inputs, flags.seed, scratch)
        kill(state, flags.kinds, flags.kills, flags.seed, scratch)
        state = State(state.file)  # another run may have added to it
        text, bad = report(state, flags.seed)
    print(text)
    if flags.out:
        flags.out.write_text(text)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
