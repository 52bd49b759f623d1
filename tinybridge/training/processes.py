"""One run in several processes, and signals that end all of them after the same step."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist


def processes() -> tuple[int, int]:
    """This process's number and how many there are; (0, 1) where torch.distributed is not begun."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


@contextmanager
def deferred_signals() -> Iterator[list[int]]:
    """Inside, SIGINT and SIGTERM only end up in the list; only the main thread can see to that."""
    noted: list[int] = []
    usual = {}
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM):
            usual[number] = signal.signal(number, lambda number, _: noted.append(number))
    try:
        yield noted
    finally:
        for number, handler in usual.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)


def stop_asked(signals: list[int], device: torch.device) -> bool:
    """Whether a signal came to any process: all of them end after the same step."""
    asked = torch.tensor([len(signals)], device=device)
    if processes()[1] > 1:
        dist.all_reduce(asked)
    return asked.item() > 0
