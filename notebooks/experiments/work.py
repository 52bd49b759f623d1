"""Jobs in processes of one thread each: the rows of a job, or why there are none, as they come."""

import time
import traceback
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from functools import cache
from multiprocessing import get_context
from pathlib import Path

import torch

from notebooks.experiments import everything, table
from notebooks.experiments.everything import Job
from notebooks.experiments.lab import Budget, Lab

Rows = dict[str, list[dict]]


@cache
def lab(backbone: str, budget: Budget, store: Path) -> Lab:
    """One for each model in a process."""
    return Lab(backbone, budget, store)


def work(job: Job, budget: Budget, store: Path, out: Path) -> dict[str, list[dict]]:
    """The rows of a job, in whichever process; tables are written by the first one alone."""
    torch.set_num_threads(1)
    table.RESULTS = out  # where rates are read
    began = time.process_time()
    here = lab(job.backbone, budget, store)
    found = everything.module(job.experiment).run(here, dict(job.key))
    spent = round(time.process_time() - began, 1)
    about = {"backbone": here.name, "model": here.model, "seconds": spent}
    return {file: [row | about for row in rows] for file, rows in found.items()}


def finished(
    jobs: list[Job], processes: int, minutes: float, budget: Budget, store: Path, out: Path
) -> Iterator[tuple[Job, Rows | str]]:
    """Each job with its rows, or with the error that ended it; none begins after `minutes`."""
    until = time.monotonic() + 60 * minutes
    told = budget, store, out
    if processes == 1:
        for job in jobs:
            if time.monotonic() < until:
                yield job, attempt(job, *told)
        return
    with ProcessPoolExecutor(processes, get_context("spawn")) as pool:
        running: dict[Future, Job] = {}
        for job in jobs:
            if time.monotonic() >= until:
                break
            running[pool.submit(attempt, job, *told)] = job
            if len(running) > processes:
                yield from done_of(running)
        while running:
            yield from done_of(running)


def done_of(running: dict[Future, Job]) -> Iterator[tuple[Job, Rows | str]]:
    """Takes out of `running` what is done, waiting for one at least."""
    for future in wait(running, return_when=FIRST_COMPLETED).done:
        yield running.pop(future), future.result()


def attempt(job: Job, budget: Budget, store: Path, out: Path) -> Rows | str:
    """The rows, or why there are none: one job that fails does not end the others."""
    try:
        return work(job, budget, store, out)
    except (ValueError, OSError, RuntimeError, KeyError, ArithmeticError):
        return traceback.format_exc()
