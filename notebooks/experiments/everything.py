"""All experiments in the order in which they are done, and every job of them.

Seed after seed, so that what is there when time ends is balanced; what costs much and says little
comes at the end. Rates are chosen before anything else.
"""

from collections.abc import Iterator
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
    if "video" in only:
        backbones.append("wan")
    found = []
    for backbone in backbones:
        for key in rates.jobs(budget, backbone):
            found.append(Job("rates", backbone, tuple({"seed": rates.SEED, **key}.items())))
    return found


def jobs(budget: Budget, only: list[str], seeds: int) -> Iterator[Job]:
    """All other jobs: what is late waits until every seed has done the rest."""
    late = []
    for seed in range(seeds):
        for experiment in ALL:
            name = name_of(experiment)
            if name not in only:
                continue
            for key in experiment.jobs(budget, seed):
                backbone = key.pop("model_folder", "wan" if name == "video" else "flux")
                job = Job(name, backbone, tuple(key.items()))
                if is_late(budget, name, key):
                    late.append(job)
                else:
                    yield job
    yield from late


def is_late(budget: Budget, name: str, key: dict) -> bool:
    """Long ladders, the cross at many calls for later seeds, heads between 8 and 512 pairs."""
    if name == "ladder":
        return key["steps"] == 1000 or (key["steps"] == 300 and key["seed"] > 0)
    if name == "cross":
        return key["calls"] == budget.calls[-1] and key["seed"] > 0
    if name == "heads":
        return key["pairs"] not in (512, 8) and key["seed"] > 0
    return name in ("sensitivity", "perception", "steps", "figure1") and key["seed"] > 0
