"""A trial in a process of its own: what hangs, crashes or eats memory costs that trial alone."""

import json
import os
import random
import resource
import shutil
import signal
import time
from pathlib import Path

from tests.torture.trials import KINDS

SECONDS = 10  # of processor time that a trial may take
PATIENCE = 120  # of wall time, for what waits without working
MEMORY = 8 << 30


def trial(kind: str, number: int, seed: int, scratch: Path) -> list[tuple[str, str]]:
    """The verdicts of trial `number`, which depend on (seed, kind, number) alone.

    The process is forked from one that has loaded the models already.
    """
    folder = scratch / f"{kind}-{number}"
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        os.close(reader)
        os._exit(_inside(kind, number, seed, scratch, folder, writer))
    os.close(writer)
    verdicts = _awaited(child, reader, f"{kind} {number}")
    shutil.rmtree(folder, ignore_errors=True)
    return verdicts


def _inside(kind: str, number: int, seed: int, scratch: Path, folder: Path, writer: int) -> int:
    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.dup2(null, 2)  # libraries in C write here on their own
    folder.mkdir(parents=True)
    verdicts = KINDS[kind](random.Random(f"{seed}/{kind}/{number}"), folder, scratch)
    with os.fdopen(writer, "w") as stream:
        json.dump(verdicts, stream)
    return 0


def _awaited(child: int, reader: int, name: str) -> list[tuple[str, str]]:
    """What the child wrote; "hang" or "crash" if it could not."""
    began = time.monotonic()
    os.set_blocking(reader, False)
    parts: list[bytes] = []
    while True:
        done, status = os.waitpid(child, os.WNOHANG)
        try:
            while part := os.read(reader, 1 << 16):
                parts.append(part)
        except BlockingIOError:
            pass
        if done:
            break
        if time.monotonic() - began > PATIENCE:
            os.kill(child, signal.SIGKILL)
        time.sleep(0.002)
    os.close(reader)
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        slow = number in (signal.SIGXCPU, signal.SIGKILL)
        return [("hang" if slow else "crash", f"{name}: signal {number}")]
    if os.WEXITSTATUS(status) or not parts:
        return [("crash", f"{name}: exit status {os.WEXITSTATUS(status)}")]
    return [(verdict, note) for verdict, note in json.loads(b"".join(parts))]
