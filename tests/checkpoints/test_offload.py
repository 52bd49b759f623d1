"""Blocks that stream, on a CPU whose copies are counted: results and gradients bit for bit."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

import weights
from tests.oracles import folders as make
from tests.oracles.wan_files import write_wan
from tinybridge.backbone import Backbone
from tinybridge.checkpoints import offload
from tinybridge.checkpoints.fetched import Fetched, linears
from tinybridge.prompt import Prompt, Tokens
from tinybridge.restoration import restore

WRITE = {"flux": make.write_folder, "wan": write_wan}
LATENT, PIXELS = {"flux": (4, 4, 6), "wan": (4, 3, 4, 6)}, {"flux": (16, 24), "wan": (5, 16, 24)}
LAYERS = {"flux": make.T5.num_layers, "wan": 3}  # of the text encoder
both = pytest.mark.parametrize("name", ["flux", "wan"])


def pair(name: str, folder: Path, layout: str = "vendor", **options) -> tuple[Backbone, Backbone]:
    """The same backbone, resident and streaming."""
    WRITE[name](folder, layout)
    resident = weights.load_backbone(name, folder, **options)
    return resident, weights.load_backbone(name, folder, offload=True, **options)


def prompts(backbone: Backbone, count: int) -> list[Prompt]:
    sizes = backbone.length, backbone.width, backbone.blocks
    return [Prompt.init(*sizes, seed=i, std=1.0) for i in range(count)]


def state(backbone: Backbone) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(2, *LATENT[backbone.name], generator=generator), torch.tensor([0.1, 0.4])


@torch.no_grad()
def velocity(backbone: Backbone, prompt=None) -> torch.Tensor:
    return backbone.velocity(*state(backbone), prompt)


def gradients(backbone: Backbone, prompt, checkpointing: bool = False) -> list[torch.Tensor]:
    backbone.model.checkpointing = checkpointing
    prompt.zero_grad()
    backbone.velocity(*state(backbone), prompt).square().mean().backward()
    return [weight.grad.clone() for weight in prompt.parameters()]


def equal(some: list[torch.Tensor], others: list[torch.Tensor]) -> bool:
    assert all(tensor.abs().max() > 0 for tensor in some)
    return all(torch.equal(a, b) for a, b in zip(some, others, strict=True))


@pytest.fixture
def copied(monkeypatch) -> list[offload.Unit]:
    """Every unit that is copied to the device, in order."""
    units: list[offload.Unit] = []
    copy = offload.copy
    monkeypatch.setattr(offload, "copy", lambda *args: units.append(args[0]) or copy(*args))
    return units


def told(units: list[offload.Unit]) -> dict[str, list[int]]:
    """The numbers of the blocks that were copied, by what of a block it was; forgets them."""
    found: dict[str, list[int]] = {"ahead": [], "prompt": [], "block": []}
    for unit in units:
        row, i, _ = unit[0].place.args
        # Most of a block is in the unit that the block itself reads, a single weight in a prompt's.
        largest = max(len(other) for other in row)
        found["block" if largest > 2 else "ahead" if largest == 2 else "prompt"].append(i)
    units.clear()
    return found


# ---- equal -------------------------------------------------------------------------------------


@both
@pytest.mark.parametrize("layout", ["vendor", "diffusers"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_velocity_and_gradients_are_equal_bit_for_bit(tmp_path, name, layout, dtype):
    resident, streaming = pair(name, tmp_path / "x", layout, dtype=dtype)
    assert torch.equal(velocity(resident), velocity(streaming))
    made, s = prompts(resident, 3), state(resident)[1]
    assert torch.equal(velocity(resident, made[0]), velocity(streaming, made[0]))
    for count in range(4):
        for times in (None, s):
            want, found = (b.prepare(made[:count], times) for b in (resident, streaming))
            assert torch.equal(velocity(resident, want), velocity(streaming, found))
    for checkpointing in (False, True):
        want = gradients(resident, made[0], checkpointing)
        assert equal(want, gradients(streaming, made[0], checkpointing))
        assert equal(want, gradients(streaming, made[0], checkpointing))  # and again


@both
def test_restored_pictures_and_clips_are_equal(tmp_path, name):
    resident, streaming = pair(name, tmp_path / "x")
    pixels = torch.rand(2, 3, *PIXELS[name], generator=torch.Generator().manual_seed(0))
    made = prompts(resident, 2)
    want, found = (restore(b, made, pixels, steps=2) for b in (resident, streaming))
    assert torch.equal(want, found) and not torch.equal(want, pixels)


@both
def test_the_text_encoder_streams_too_and_tokens_learn_through_it(tmp_path, name, copied):
    resident, streaming = pair(name, tmp_path / "x", keep_encoder=True)
    assert torch.equal(resident.context, streaming.context) and not copied  # the cache knew them
    tokens = Tokens.init(resident.null_embeddings(), seed=0)
    assert equal(gradients(resident, tokens), gradients(streaming, tokens))
    inside = [linear.weight for linear in linears(streaming.encoder).values()]
    assert len(inside) == 7 * len(streaming.encoder.encoder.block)
    assert all(isinstance(weight, Fetched) for weight in inside)


def test_rows_of_a_new_text_are_equal(tmp_path, monkeypatch, copied):
    for name in WRITE:
        WRITE[name](tmp_path / name)
        found = []
        for stream in (False, True):
            monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / f"{name}-{stream}"))
            backbone = weights.load_backbone(
                name, tmp_path / name, text="red hills", offload=stream
            )
            found.append(backbone.context)
        assert torch.equal(*found) and len(copied) == LAYERS[name]  # once each
        copied.clear()


# ---- how often and how much --------------------------------------------------------------------


@both
def test_each_block_is_copied_once_a_forward_and_at_most_once_a_backward(tmp_path, name, copied):
    _, streaming = pair(name, tmp_path / "x")
    n, (prompt, other) = streaming.blocks, prompts(streaming, 2)
    every, alone = list(range(n)), list(range(n)) if name == "flux" else []
    assert told(copied) == {"ahead": [], "prompt": [], "block": []}  # nothing before it is needed

    terms = streaming.prepare([prompt, other], state(streaming)[1])
    assert told(copied) == {"ahead": every, "prompt": alone, "block": []}
    for _ in range(3):  # steps of the sampler
        velocity(streaming, terms)
        assert told(copied) == {"ahead": [], "prompt": [], "block": every}

    for checkpointing in (False, True):
        streaming.model.checkpointing = checkpointing
        loss = streaming.velocity(*state(streaming), prompt).square().mean()
        of_forward = told(copied)
        assert of_forward["block"] == every
        loss.backward()
        of_backward = told(copied)
        assert of_backward["block"] == every[-3::-1]  # the last two are still there
        if name == "flux":
            assert of_backward["prompt"] == every[::-1] and of_backward["ahead"] == []
        else:
            assert of_backward["ahead"] == every[::-1]
        velocity(streaming, prompt)
        told(copied)


@both
def test_two_units_are_on_the_device_and_no_more(tmp_path, name, monkeypatch):
    _, streaming = pair(name, tmp_path / "x", dtype=torch.bfloat16)
    matrices = [w for b in streaming.model.blocks for m in linears(b).values() for w in [m.weight]]
    assert all(isinstance(weight, Fetched) for weight in matrices)
    resident = {weight.dim() for b in streaming.model.blocks for weight in b.parameters()}
    assert resident <= {1, 3}  # biases, norms, and WAN's modulation

    rings = {id(weight.place.func.__self__): weight.place.func.__self__ for weight in matrices}
    (ring,) = rings.values()
    largest = max(offload.size(w.place.args[0][w.place.args[1]]) for w in matrices)
    assert [len(buffer) for buffer in ring.buffers] == [largest, largest]
    reach = [(b.data_ptr(), b.data_ptr() + len(b)) for b in ring.buffers]
    fetch, fetches = Fetched.fetch, []

    def inside_a_buffer(self):
        ready = fetch(self)
        assert any(low <= ready.data_ptr() < high for low, high in reach)
        fetches.append(self)
        return ready

    monkeypatch.setattr(Fetched, "fetch", inside_a_buffer)
    gradients(streaming, prompts(streaming, 1)[0])
    assert len(fetches) > len(matrices)


def test_weights_that_are_mapped_stay_mapped(tmp_path):
    """The vendor's tensors are used as they lie in the file, and no copy of them is made."""
    for name in WRITE:
        _, streaming = pair(name, tmp_path / name)
        maps = [line.split() for line in Path("/proc/self/maps").read_text().splitlines()]
        files = [row[0].split("-") for row in maps if row[-1].endswith(".safetensors")]
        spans = [(int(low, 16), int(high, 16)) for low, high in files]
        for block in streaming.model.blocks:
            for linear in linears(block).values():
                address = linear.weight.stored.data_ptr()
                assert any(low <= address < high for low, high in spans)


# ---- what may go wrong -------------------------------------------------------------------------


@both
def test_a_copy_that_fails_is_made_again(tmp_path, name, monkeypatch):
    resident, streaming = pair(name, tmp_path / "x")
    (prompt,) = prompts(resident, 1)
    want, copy = gradients(resident, prompt), offload.copy
    for moment in (0, 3, 7, 11):
        left = [moment]

        def fails_once(unit, buffer, left=left):
            left[0] -= 1
            if left[0] == -1:
                buffer.fill_(255)
                raise torch.OutOfMemoryError
            return copy(unit, buffer)

        monkeypatch.setattr(offload, "copy", fails_once)
        with pytest.raises(torch.OutOfMemoryError):
            gradients(streaming, prompt)
        assert equal(want, gradients(streaming, prompt)), moment


def test_a_fetched_weight_is_for_linears_alone():
    weight = Fetched(torch.ones(3, 2), torch.float32)
    assert torch.equal(F.linear(torch.ones(1, 2), weight[:2]), torch.full((1, 2), 2.0))
    for use in (torch.matmul, torch.add):
        with pytest.raises(TypeError, match="for linears"):
            use(torch.ones(2, 2), weight)
