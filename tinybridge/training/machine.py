"""What this machine offers and says: its devices, too little memory, SIGTERM."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch


def pick_device(name: str) -> str:
    """The device that --device names, "auto": a GPU of CUDA if there is one, or else the CPU.

    ValueError in one line if this machine, or this build of PyTorch, has none.
    """
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    found = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not found.get(name, True):
        raise ValueError(f"--device {name}: PyTorch finds none here; use --device cpu or auto")
    return name


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory is too small, a GPU's or the machine's own."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    words = ("can't allocate memory", "not enough memory", "out of memory")
    return isinstance(error, RuntimeError) and any(word in str(error) for word in words)


class Terminated(KeyboardInterrupt):
    """SIGTERM."""


@contextmanager
def sigterm_interrupts() -> Iterator[None]:
    """Inside, SIGTERM raises Terminated, as SIGINT raises KeyboardInterrupt."""

    def terminate(number: int, frame: object) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a second one does not disturb the tidying
        raise Terminated

    if threading.current_thread() is not threading.main_thread():  # signals are not ours there
        yield
        return
    older = signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, older)
