"""Ours against the authors' formulas on diffusers' modules: equal results, then time and memory.

    python -m tests.bench.side_by_side --out tests/bench/side_by_side.md    # minutes on one core
    python -m tests.bench.side_by_side --flops                              # products alone
    python -m tests.bench.side_by_side --small                              # that it runs: seconds

What is done stands in two_ways.py. Ours and theirs run in turn, A B A B, and a ratio is of two
calls that followed each other; its median is shown, of 20 steps one round. Time is the processor's,
memory the rise of the peak resident set in the first call. A result that is not theirs ends it.
"""

import argparse
import ctypes
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import diffusers
import torch
from torch import Tensor

from tests.bench.loading import machine
from tests.bench.two_ways import (
    MIDDLE,
    SMALL,
    Models,
    Pair,
    Sizes,
    pairs,
    sdpa_choice,
    transformer_pairs,
)
from tests.bench.wan import flops
from tests.bench.wan_vae import resident
from tests.oracles import plain

GOALS = {  # ours to theirs, at most
    "flux": {"forward": 1.0, "training step": 1.0, "restoration": 1.0},
    "wan": {"forward": 0.85, "restoration": 0.8},
}


def first_call(run: Callable[[], Tensor]) -> tuple[Tensor, float, float]:
    """The result, seconds, and MiB that the peak resident set rose by."""
    ctypes.CDLL(None).malloc_trim(0)  # or what was freed before would hide a rise
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before, start = resident("VmRSS"), time.process_time()
    result = run()
    return result, time.process_time() - start, resident("VmHWM") - before


def seconds(run: Callable[[], Tensor]) -> float:
    start = time.process_time()
    run()
    return time.process_time() - start


def measure(backbone: str, pair: Pair, rounds: int) -> tuple[str, float]:
    """A row of the table, and the median ratio. SystemExit where the results differ.

    The first round tells memory and difference; its time counts where a round is long.
    """
    got, our_time, our_memory = first_call(pair.ours)
    want, their_time, their_memory = first_call(pair.theirs)
    apart = plain.error(got, want)
    if not apart <= pair.bound:
        raise SystemExit(f"error: {backbone}, {pair.name}: differs by {apart:.1e}, no figures")
    ours, theirs = ([our_time], [their_time]) if pair.long else ([], [])
    while len(ours) < (1 if pair.long else rounds):
        ours.append(seconds(pair.ours))
        theirs.append(seconds(pair.theirs))
    ratios = [our / their for our, their in zip(ours, theirs, strict=True)]
    ratio = statistics.median(ratios)
    cells = [backbone.upper(), pair.name, f"{apart:.0e}"]
    cells += [f"{statistics.median(ours):.2f}", f"{statistics.median(theirs):.2f}"]
    cells += [f"{ratio:.2f}", f"{min(ratios):.2f} to {max(ratios):.2f}"]
    cells += [f"{our_memory:.0f}", f"{their_memory:.0f}"]
    return f"| {' | '.join(cells)} |", ratio


def verdict(backbone: str, name: str, ratio: float) -> list[str]:
    """Whether a goal is met, in a line; none where there is no goal."""
    goal = GOALS[backbone].get(name.split(",")[0])
    if goal is None or "compiled" in name:
        return []
    met = "met" if round(ratio, 2) <= goal else "NOT met"
    return [f"- {backbone.upper()}, {name}: {ratio:.2f}, goal {goal}: {met}"]


def count(name: str, sizes: Sizes) -> list[str]:
    """Rows of the table of FLOPs, which no time can go below for long: ours, theirs, ratio."""
    rows = []
    for pair in transformer_pairs(Models.random(name, sizes)):
        if not pair.long:
            ours, theirs = flops(pair.ours) / 1e9, flops(pair.theirs) / 1e9
            cells = f"{ours:.1f} | {theirs:.1f} | {ours / theirs:.2f}"
            rows.append(f"| {name.upper()} | {pair.name} | {cells} |")
    return rows


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backbone", choices=("flux", "wan"), help="default: both")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", default="", help="rows whose name holds this")
    parser.add_argument("--small", action="store_true", help="tiny models, one round")
    parser.add_argument("--flops", action="store_true", help="count them, measure nothing")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args(argv)
    diffusers.utils.logging.set_verbosity_error()
    sizes, rounds = (SMALL, 1) if args.small else (MIDDLE, args.rounds)
    names = (args.backbone,) if args.backbone else ("flux", "wan")
    if args.flops:
        print("| | | ours: GFLOP | theirs: GFLOP | ratio |\n|---|---|---|---|---|")
        for name in names:
            print("\n".join(count(name, sizes[name])), flush=True)
        return
    lines: list[str] = []

    def say(line: str) -> None:
        lines.append(line)
        print(line, flush=True)

    say("# Ours and the authors' formulas on diffusers' modules, side by side\n")
    say(f"`python -m tests.bench.side_by_side`: {machine()}\n")
    say(f"Threads: {torch.get_num_threads()}, rounds: {rounds}. SDPA takes {sdpa_choice()} here.\n")
    say("| | | difference | ours: s | theirs: s | ratio | of a round | ours: MiB | theirs: MiB |")
    say("|---|---|---|---|---|---|---|---|---|")
    verdicts: list[str] = []
    for name in names:
        with tempfile.TemporaryDirectory() as folder:
            for pair in pairs(name, sizes[name], Path(folder), args.only):
                line, ratio = measure(name, pair, rounds)
                say(line)
                verdicts += verdict(name, pair.name, ratio)
    say("")
    for line in verdicts:
        say(line)
    say("\nOn a GPU: not measured, there was none.")
    if args.out:
        args.out.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    sys.exit(main())
