"""All experiments in the order in which they are done, and every job of them.

Rates are chosen before anything else; then what `rank` puts first, seed after seed.
"""

from dataclasses import dataclass
from types import ModuleType

from notebooks.experiments import (
    choose,
    cross,
    figure1,
    heads,
    ladder,
    mixtures,
    perception,
    rates,
    recipe,
    seen,
    sensitivity,
    steering,
    steps,
    unseen,
    video,
    words,
)
from notebooks.experiments.lab import Budget

ALL = [
    cross, ladder, heads, steps, steering, words, mixtures, choose, unseen, perception, seen,
    video, recipe, sensitivity, figure1,
]  # fmt: skip
SEEDS = 3
COLUMNS = {file: own for e in [rates, *ALL] for file, own in e.COLUMNS.items()}


@dataclass(frozen=True)
class Job:
    """What makes some rows of a table. key: values of its columns, by which it is known."""

    experiment: str
    backbone: str
    key: tuple[tuple[str, object], ...]

    @property
    def name(self) -> str:
        words = (str(value) for _, value in self.key)
        return f"{self.experiment} {self.backbone} {' '.join(words)}"


def name_of(experiment: ModuleType) -> str:
    return experiment.__name__.split(".")[-1]


def module(name: str) -> ModuleType:
    return next(e for e in [rates, *ALL] if name_of(e) == name)


def table_of(experiment: ModuleType) -> str:
    """The table that says whether a job is done: the first."""
    return next(iter(experiment.COLUMNS))


def rate_jobs(budget: Budget, only: list[str]) -> list[Job]:
    """Those of rates.py, of the backbones that are needed."""
    backbones = []
    if set(only) - {"video"}:
        backbones.append("flux")
    if {"video", "steps", "figure1"} & set(only):
        backbones.append("wan")
    found = []
    for backbone in backbones:
        for key in rates.jobs(budget, backbone):
            found.append(Job("rates", backbone, tuple({"seed": rates.SEED, **key}.items())))
    return found


def jobs(budget: Budget, only: list[str], seeds: int) -> list[Job]:
    """All other jobs, by rank, then seed after seed."""
    ranked = []
    for seed in range(seeds):
        for experiment in ALL:
            name = name_of(experiment)
            if name not in only:
                continue
            for key in experiment.jobs(budget, seed):
                backbone = key.pop("backbone", "wan" if name == "video" else "flux")
                job = Job(name, backbone, tuple(key.items()))
                ranked.append((rank(budget, name, key), job))
    ranked.sort(key=lambda pair: pair[0])  # stable: seeds and experiments keep their order
    return [job for _, job in ranked]


WHOLE = ("cross", "ladder", "heads", "mixtures", "choose", "unseen", "steering", "words", "seen")


def rank(budget: Budget, name: str, key: dict) -> int:
    """Which jobs come first: those of rank 0, then of 1, and so on to 4.

    0: the argument at seed 0; 1: the others at seed 0; 2: the argument again; 3: what is left;
    4: what takes longest. So that what is there when time ends is balanced: the argument is WHOLE,
    without what costs much and says little, which is left.
    """
    again = 2 if key["seed"] > 0 else 0
    left = 3 if key["seed"] > 0 else 1
    if name not in WHOLE:
        return left
    if name == "cross" and is_aside(budget, key):
        return 3 if again or key["calls"] == budget.calls[-1] else 0
    if name == "ladder" and key["steps"] > 3 * budget.steps:
        return 4
    if name == "ladder" and (key["steps"] > budget.steps or key["degradation"] != budget.kinds[0]):
        return 3
    if name == "heads" and key["pairs"] not in (8, 512):
        return 3
    return again


def is_aside(budget: Budget, key: dict) -> bool:
    """Of the cross, what neither is the paper's nor rivals it."""
    if key["calls"] == budget.calls[-1]:
        return key["loss"] == "velocity" or key["states"] in ("late", "ebridge")
    return key["states"] == "late" or (key["states"], key["loss"]) == ("ddbm", "velocity")
