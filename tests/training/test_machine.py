"""What a machine lacks: a device that is asked for, memory."""

from functools import partial

import pytest
import torch

from tinybridge.training import machine
from tinybridge.training.machine import halved, pick_device
from tinybridge.windows import out_of_memory


@pytest.mark.parametrize("there", [True, False])
def test_a_device_is_taken_or_refused(there, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: there)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: there)
    assert pick_device("auto") == ("cuda" if there else "cpu") and pick_device("cpu") == "cpu"
    for name in ("cuda", "mps"):
        if there:
            assert pick_device(name) == name
        else:
            with pytest.raises(ValueError, match=f"--device {name}: PyTorch finds none here"):
                pick_device(name)


def test_too_little_memory_is_told_from_other_errors():
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**62, dtype=torch.uint8)  # what PyTorch really says
    assert out_of_memory(caught.value)
    assert out_of_memory(torch.OutOfMemoryError("CUDA out of memory.")) and out_of_memory(
        MemoryError()
    )
    assert not out_of_memory(RuntimeError("shapes cannot be multiplied"))
    assert not out_of_memory(ValueError("out of memory"))


def test_halved_until_it_fits_or_nothing_does():
    tried = []

    def run(n: int, most: int, error: Exception) -> int:
        tried.append(n)
        if n > most:
            raise error
        return n

    assert halved(partial(run, most=3, error=MemoryError()), 16) == 2 and tried == [16, 8, 4, 2]
    with pytest.raises(torch.OutOfMemoryError):
        halved(partial(run, most=0, error=torch.OutOfMemoryError("CUDA")), 5)
    assert tried[4:] == [5, 2, 1]
    with pytest.raises(RuntimeError, match="other"):
        halved(partial(run, most=0, error=RuntimeError("other")), 5)
    assert tried[7:] == [5]


def test_an_error_is_one_line_that_keeps_the_name():
    assert machine.one_line(ValueError("in/new\nline.png: gone")) == "in/new\\nline.png: gone"
    assert machine.one_line(OSError("a\t\x1b[2J.png")) == "a\\t\\x1b[2J.png"
    assert machine.one_line(RuntimeError("first\nsecond")) == "first"
    assert machine.one_line(MemoryError()) == "MemoryError"
