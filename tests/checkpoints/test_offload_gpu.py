"""Blocks that stream to a GPU: page-locked memory, and the order of copies and products."""

import math
from types import SimpleNamespace

import pytest
import torch

from tests.checkpoints.test_offload import both, equal, pair, prompts, state, velocity
from tinybridge.checkpoints import memory
from tinybridge.checkpoints.fetched import Fetched, linears
from tinybridge.flux import Flux, FluxConfig
from tinybridge.wan import SIZES, Wan, WanConfig

with torch.device("meta"):
    OFFICIAL = [Flux(FluxConfig()), *(Wan(WanConfig(**sizes)) for sizes in SIZES.values())]


@pytest.mark.parametrize("bytes_a_value", [1, 2, 4])
@pytest.mark.parametrize("model", OFFICIAL, ids=["flux", *SIZES])
def test_page_locked_memory_is_little_more_than_the_model(model, bytes_a_value):
    """Of official sizes, though torch rounds each piece up to a power of 2."""
    kind = {1: torch.uint8, 2: torch.bfloat16, 4: torch.float32}[bytes_a_value]
    stored = []
    for block in model.blocks:
        for linear in linears(block).values():
            stored.append(Fetched(linear.weight.to(kind), kind))
    found = memory.pieces(stored)
    assert [weight for piece in found for weight in piece] == stored
    rounded = sum(2 ** math.ceil(math.log2(memory.size(piece))) for piece in found)
    assert memory.size(stored) <= rounded < 1.17 * memory.size(stored)


def test_copies_wait_for_what_reads_their_buffer_and_products_for_their_copy(tmp_path, monkeypatch):
    """CUDA's streams and events, noted instead of obeyed."""
    notes: list[tuple] = []
    computing = SimpleNamespace(wait_event=lambda event: notes.append(("product waits", event)))
    copying = SimpleNamespace(
        device="cuda:0", wait_stream=lambda s: notes.append(("copy waits", s))
    )

    class Inside:
        def __init__(self, stream):
            assert stream is copying

        def __enter__(self):
            notes.append(("copy begins",))

        def __exit__(self, *error):
            notes.append(("copy asked for",))

    def event(k):
        return SimpleNamespace(record=lambda: notes.append(("recorded", k)), number=k)

    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: computing)
    monkeypatch.setattr(torch.cuda, "stream", Inside)
    resident, streaming = pair("wan", tmp_path / "x")
    ring = streaming.model.blocks[0].ffn[0].weight.place.func.__self__
    ring.stream, ring.copied = copying, [event(0), event(1)]
    assert torch.equal(velocity(resident), velocity(streaming))

    for at, note in enumerate(notes):
        if note[0] == "copy begins":
            assert notes[at - 1] == ("copy waits", computing)
            kinds = [other[0] for other in notes[at : at + 3]]
            assert kinds == ["copy begins", "recorded", "copy asked for"]
    waited = [note[1].number for note in notes if note[0] == "product waits"]
    recorded = [note[1] for note in notes if note[0] == "recorded"]
    assert recorded == [1, 0, 1, 0] * 2  # keys of text in four blocks, then the blocks
    changes = [k for k, before in zip(waited, [None, *waited], strict=False) if k != before]
    assert changes == recorded


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU of CUDA")
@both
def test_on_a_gpu_it_is_equal_too(tmp_path, name):
    resident, streaming = pair(name, tmp_path / "x", device="cuda")
    made = [prompt.cuda() for prompt in prompts(resident, 2)]
    x, s = (tensor.cuda() for tensor in state(resident))
    with torch.no_grad():
        want, found = (b.velocity(x, s, b.prepare(made, s)) for b in (resident, streaming))
    assert torch.equal(want, found)
    weight = streaming.model.blocks[0].ffn[0].weight if name == "wan" else None
    assert weight is None or weight.stored.is_pinned()
    for b in (resident, streaming):
        made[0].zero_grad()
        b.velocity(x, s, made[0]).square().mean().backward()
        found = [weight.grad.clone() for weight in made[0].parameters()]
        want = found if b is resident else want
    assert equal(want, found)
