"""What this machine offers and says: devices, too little memory, several processes, signals."""

import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import nn

from tinybridge.data.left_out import shown
from tinybridge.windows import out_of_memory

T = TypeVar("T")


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


def halved(run: Callable[[int], T], n: int) -> T:
    """run(n), n at a time; half of them, and again half, for as long as memory is too small."""
    while True:
        try:
            return run(n)
        except (RuntimeError, MemoryError) as error:
            if n == 1 or not out_of_memory(error):
                raise
        n //= 2


def one_line(error: BaseException) -> str:
    """An error in one line: names in it may hold line breaks; of libraries its first line."""
    text = str(error)
    if not isinstance(error, ValueError | OSError):
        text = (text.splitlines() or [""])[0]
    return shown(text) or type(error).__name__


# ---- compiled blocks ----------------------------------------------------------------------------

COMPILE = "compile the model's blocks: the first step takes minutes, later ones less time"


def compile_blocks(model: nn.Module, backend: str = "inductor") -> None:
    """Compiles the blocks of a model, which differ in weights alone: each kind once, for all.

    ValueError in one line where no compiler works here: something small is tried first, for what
    can be wrong (no g++, no Triton, no folder to write to) only a compiler can tell. So it is where
    weights are fetched as they are needed, by --offload or from 8 bits.
    """
    linears = [part for part in model.modules() if isinstance(part, nn.Linear)]
    if not all(isinstance(part.weight, torch.Tensor) for part in linears):
        raise ValueError(
            "--compile: weights that are fetched (--offload, --weights-dtype float8) are not "
            "compiled; leave one of the two out"
        )
    try:
        torch.compile(torch.cos, backend=backend)(next(model.parameters())[:1])
    except Exception as error:
        raise ValueError(
            f"--compile: no compiler that works is found here ({one_line(error)}); install one "
            "(g++ for a CPU, Triton for a GPU) or leave --compile out"
        ) from None
    for block in model.blocks:
        block.compile(backend=backend)


# ---- memory ------------------------------------------------------------------------------------


def memory_there(device: str, root: Path = Path("/")) -> int | None:
    """Bytes that a run may still take: of the GPU, or of this machine; None: nobody says.

    Of the machine: what Linux calls available, or what a container's limit (cgroup, version 1 or 2)
    leaves if that is less. root: where /proc and /sys lie.
    """
    if device.startswith("cuda"):
        return torch.cuda.mem_get_info(device)[0]
    known = [line.split() for line in text_of(root / "proc/meminfo").splitlines()]
    free = [int(words[1]) * 1024 for words in known if words[0] == "MemAvailable:"]
    for line in text_of(root / "proc/self/cgroup").splitlines():
        _, kind, path = line.split(":", 2)
        if kind == "":
            top, limit, used = root / "sys/fs/cgroup", "memory.max", "memory.current"
        elif "memory" in kind.split(","):
            top, limit = root / "sys/fs/cgroup/memory", "memory.limit_in_bytes"
            used = "memory.usage_in_bytes"
        else:
            continue
        place = top / path.lstrip("/")
        for folder in (place, *place.parents):  # each may have a limit of its own
            if folder != top and top not in folder.parents:
                break
            most, taken = text_of(folder / limit).strip(), text_of(folder / used).strip()
            if most.isdecimal() and taken.isdecimal():
                free.append(max(0, int(most) - int(taken) + cached_files(folder)))
    return min(free, default=None)


def cached_files(cgroup: Path) -> int:
    """Bytes of a cgroup's use that are copies of files, which it gives back when asked."""
    words = [line.split() for line in text_of(cgroup / "memory.stat").splitlines()]
    return sum(int(size) for name, size in words if name in ("inactive_file", "active_file"))


def text_of(file: Path) -> str:
    """What a file says; "" if there is none."""
    try:
        return file.read_text()
    except OSError:
        return ""


# ---- several processes -------------------------------------------------------------------------


def processes() -> tuple[int, int]:
    """This process's number and how many there are; (0, 1) where torch.distributed is not begun."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


def share(count: int) -> slice:
    """Which of `count` things are this process's: the shares follow each other, some are empty."""
    rank, world = processes()
    return slice(rank * count // world, (rank + 1) * count // world)


def raise_together(fault: Exception | None) -> None:
    """Raises a fault of any process in all of them, so that none waits for one that has left."""
    faults = [None]
    if processes()[1] > 1:
        faults = [None] * processes()[1]
        dist.all_gather_object(faults, None if fault is None else str(fault))
    if fault is not None:
        raise fault
    for others in faults:
        if others is not None:
            raise ValueError(others)


def least(n: int, device: torch.device) -> int:
    """The smallest n of all processes."""
    found = torch.tensor([n], device=device)
    if processes()[1] > 1:
        dist.all_reduce(found, op=dist.ReduceOp.MIN)
    return int(found.item())


def stop_asked(signals: list[int], device: torch.device) -> bool:
    """Whether a signal came to any process: all of them end after the same step."""
    asked = torch.tensor([len(signals)], device=device)
    if processes()[1] > 1:
        dist.all_reduce(asked)
    return asked.item() > 0


# ---- signals -----------------------------------------------------------------------------------


def show_any_name() -> None:
    """File names that stdout or stderr have no letters for are escaped instead of ending a run."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


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
