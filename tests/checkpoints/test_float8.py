"""Weights in 8 bits: a factor a row, decoded one at a time; files of float8 stay as they are."""

import gc
import weakref
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

import weights
from tests.oracles import flux, wan
from tests.oracles.folders import error_of, to_other, write_folder
from tests.oracles.plain import error, one_text, random, repeated
from tests.oracles.wan_files import write_wan
from tinybridge.checkpoints.fetched import Fetched, linears
from tinybridge.checkpoints.float8 import encode
from tinybridge.checkpoints.flux import FLUX_TABLE
from tinybridge.checkpoints.load import build, open_model
from tinybridge.checkpoints.wan import WAN_TABLE

both = pytest.mark.parametrize("oracle", [flux, wan], ids=["flux", "wan"])
both_layouts = pytest.mark.parametrize("layout", ["vendor", "diffusers"])
TABLES = {flux: FLUX_TABLE, wan: WAN_TABLE}
E4M3, E5M2 = torch.float8_e4m3fn, torch.float8_e5m2


def load(oracle, file: Path, dtype=torch.float32, device="cpu", **how):
    """The transformer in a file, as a backbone would hold it."""
    name, config = ("flux", flux.tiny().config) if oracle is flux else ("wan", wan.tiny().config)
    return build(open_model(name, file, config), device, dtype, **how)


def saved(oracle, folder: Path, layout: str, dtype=torch.float32) -> tuple[Path, dict[str, Tensor]]:
    """A small transformer as a file, and its tensors there."""
    model = oracle.tiny()
    state = model.state_dict()
    if layout == "diffusers":
        state = to_other(state, TABLES[oracle], model.config.hidden_size)
    state = {name: tensor.to(dtype) for name, tensor in state.items()}
    folder.mkdir(exist_ok=True)
    save_file(state, folder / "x.safetensors")
    return folder / "x.safetensors", state


def of_a_block(name: str, tensor: Tensor) -> bool:
    """Whether a tensor of any layout is the matrix of a block's linear."""
    return "blocks." in name and tensor.dim() == 2


def matrices(model) -> list[Fetched]:
    return [part.weight for block in model.blocks for part in linears(block).values()]


def outcome(oracle, model, checkpointing: bool = False) -> list[Tensor]:
    """Velocities without a prompt, with one, with prepared ones; gradients to one."""
    model.checkpointing = checkpointing
    given = one_text(oracle.inputs(next(model.parameters()).dtype))
    prompt = oracle.a_prompt()
    several = [oracle.a_prompt(seed) for seed in (5, 6)]
    with torch.no_grad():
        found = [model(**given), model(**given, prompt=prompt)]
        terms = oracle.prepare(model, several, given, given["t"])
        found.append(model(**repeated(given, 2), prompt=terms))
    learned = [part.requires_grad_() for part in vars(prompt).values()]
    model(**given, prompt=prompt).square().mean().backward()
    return [*found, *(part.grad for part in learned)]


# ---- one matrix --------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1e-44, 1e-38, 1e-30, 1e-3, 1.0, 1e30, 3e38], ids=str)
def test_a_row_keeps_its_own_range(size):
    weight = random(6, 256, seed=1) / 5
    weight[1] = 0
    weight[2, 1:] = 0
    weight[3] *= 1e-6
    weight[4, 0] = 1.0  # far from the others of its row
    weight = weight.clamp(-1, 1) * torch.tensor(size)
    values, scale = encode(weight)
    assert values.dtype == E4M3 and scale.shape == (6,) and scale.dtype == torch.float32
    decoded = values.float() * scale[:, None]
    assert decoded.isfinite().all() and (decoded[1] == 0).all()
    # Half of a step: an eighth of a power of 2, or at the lower end 2^-9 of the factor.
    steps = weight.abs() / 16 + scale[:, None] / 2**10
    assert ((decoded - weight).abs() <= steps * 1.001 + 1e-45).all()
    if size >= 1e-3:
        largest = weight.abs().amax(1)
        torch.testing.assert_close(decoded.abs().amax(1), largest, rtol=1e-6, atol=0)
        assert values[3].float().abs().max() == 448


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_what_is_not_finite_does_not_become_finite(bad):
    weight = torch.ones(2, 3)
    weight[1, 1] = bad
    values, scale = encode(weight)
    decoded = values.float() * scale[:, None]
    assert (decoded[0] == 1).all() and not decoded[1].isfinite().all()


# ---- models ------------------------------------------------------------------------------------


@both
@both_layouts
def test_matrices_of_blocks_are_a_byte_a_value_and_the_rest_is_as_it_was(tmp_path, oracle, layout):
    file, _ = saved(oracle, tmp_path, layout)
    model, whole = load(oracle, file, float8=True), load(oracle, file)
    of_model, of_whole = model.state_dict(), whole.state_dict()
    for name in of_model.keys() & of_whole.keys():
        assert torch.equal(of_model[name], of_whole[name]), name
    gone = of_whole.keys() - of_model.keys()
    assert gone == {name for name, part in of_whole.items() if of_a_block(name, part)}
    stems = {name.removesuffix("weight") for name in gone}
    beside = {stem + part for stem in stems for part in ("stored", "row_scale")}
    assert of_model.keys() - of_whole.keys() == beside
    found = matrices(model)
    assert len(found) == len(gone) == (8 * 2 + 2 * 2 + 3 * 3 if oracle is flux else 4 * 10)
    for weight in found:
        rows, _ = weight.stored.shape
        assert weight.stored.dtype == E4M3 and weight.scale.shape == (rows,)
    by_name = dict(linears(whole))
    for name, part in linears(model).items():
        if isinstance(part.weight, Fetched):
            assert error(part.weight.fetch(), by_name[name].weight) < 1 / 16


@both
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_velocities_and_gradients_are_near_those_of_the_whole_weights(tmp_path, oracle, dtype):
    file, _ = saved(oracle, tmp_path, "vendor")
    want = outcome(oracle, load(oracle, file, dtype))
    for how in ({}, {"checkpointing": True}):
        found = outcome(oracle, load(oracle, file, dtype, float8=True), **how)
        for ours, theirs in zip(found, want, strict=True):
            alike = torch.cosine_similarity(ours.flatten().double(), theirs.flatten().double(), 0)
            assert 0.99 < alike < 0.999999
            assert 0.9 < ours.double().norm() / theirs.double().norm() < 1.1


@both
@both_layouts
def test_streaming_copies_the_bytes_and_changes_nothing(tmp_path, oracle, layout):
    file, _ = saved(oracle, tmp_path, layout)
    resident = load(oracle, file, torch.bfloat16, float8=True)
    streaming = load(oracle, file, torch.bfloat16, float8=True, offload=True)
    wide = load(oracle, file, torch.bfloat16, offload=True)
    assert 2 * len(streaming.ring0) == len(wide.ring0) == len(wide.ring1)
    for checkpointing in (False, True):
        want, found = (outcome(oracle, m, checkpointing) for m in (resident, streaming))
        assert all(torch.equal(a, b) for a, b in zip(want, found, strict=True))


@both
def test_one_weight_is_decoded_at_a_time_forward_and_backward(tmp_path, oracle, monkeypatch):
    file, _ = saved(oracle, tmp_path, "vendor")
    model, fetch = load(oracle, file, float8=True), Fetched.fetch
    alive: list[weakref.ref] = []
    most = [0]

    def counted(self):
        ready = fetch(self)
        alive.append(weakref.ref(ready.untyped_storage()))
        most[0] = max(most[0], sum(ref() is not None for ref in alive))
        return ready

    monkeypatch.setattr(Fetched, "fetch", counted)
    gc.disable()
    try:
        outcome(oracle, model)
        outcome(oracle, model, checkpointing=True)
    finally:
        gc.enable()
    assert len(alive) > 200 and most[0] == 1


@both
def test_headers_alone_tell_what_the_device_will_hold(tmp_path, oracle):
    file, _ = saved(oracle, tmp_path, "vendor")
    sizes = []
    for float8 in (False, True):
        for offload in (False, True):
            how = {"float8": float8, "offload": offload}
            held, told = (
                sum(part.nbytes for part in model.state_dict().values())
                for model in (load(oracle, file, **how), load(oracle, file, device="meta", **how))
            )
            assert held == told
            sizes.append(held)
    whole, streaming, bits, both_of_them = sizes
    assert both_of_them < min(streaming, bits) and max(streaming, bits) < whole
    headers = load(oracle, file, device="meta", float8=True, offload=True)
    given = {name: value.to("meta") for name, value in one_text(oracle.inputs()).items()}
    prompt = oracle.a_prompt()
    for name, part in vars(prompt).items():
        setattr(prompt, name, part.to("meta").requires_grad_())
    headers(**given, prompt=prompt).square().mean().backward()
    assert all(part.grad.is_meta for part in vars(prompt).values())


# ---- files of float8 ---------------------------------------------------------------------------


def squeezed(state: dict[str, Tensor], shape: str, kind: torch.dtype) -> dict[str, Tensor]:
    """Matrices of blocks in float8 with factors of a shape, the rest in bfloat16."""
    stored = {}
    for name, tensor in state.items():
        stored[name] = tensor.bfloat16()
        if of_a_block(name, tensor):
            by_row = shape in ("rows", "column")
            scale = tensor.abs().amax(1) / 300 if by_row else tensor.abs().max() / 300
            scale = torch.ones(()) if shape == "none" else scale
            stored[name] = (tensor / scale.view(-1, 1)).to(kind)
            form = {"rows": (-1,), "column": (-1, 1), "one": (1,), "": (), "none": ()}[shape]
            if shape != "none":
                stored[name.removesuffix("weight") + "scale_weight"] = scale.reshape(form)
    return stored


@both
@both_layouts
@pytest.mark.parametrize(
    ("shape", "kind"),
    [("", E4M3), ("one", E4M3), ("rows", E4M3), ("column", E5M2), ("none", E4M3)],
    ids=str,
)
def test_a_file_of_float8_stays_so_and_means_what_it_meant(tmp_path, oracle, layout, shape, kind):
    _, state = saved(oracle, tmp_path, layout)
    stored = squeezed(state, shape, kind)
    save_file(stored, tmp_path / "x.safetensors")
    decoded = load(oracle, tmp_path / "x.safetensors", torch.bfloat16)
    for offload in (False, True):
        model = load(
            oracle, tmp_path / "x.safetensors", torch.bfloat16, float8=True, offload=offload
        )
        found = [weight.stored.view(torch.uint8) for weight in matrices(model)]
        given = [part.view(torch.uint8) for part in stored.values() if part.dtype == kind]
        assert {weight.stored.dtype for weight in matrices(model)} == {kind}
        for of_all in (found, given):  # the same bytes, joined or not
            of_all[:] = [torch.cat([part.flatten() for part in of_all]).sort().values]
        assert torch.equal(found[0], given[0])
        pairs = zip(outcome(oracle, model), outcome(oracle, decoded), strict=True)
        assert all(torch.equal(a, b) for a, b in pairs)


@both
def test_a_file_of_float8_is_mapped_where_it_can_be(tmp_path, oracle):
    _, state = saved(oracle, tmp_path, "vendor")
    save_file(squeezed(state, "rows", E4M3), tmp_path / "x.safetensors")
    model = load(oracle, tmp_path / "x.safetensors", float8=True)
    maps = Path("/proc/self/maps").read_text().splitlines()
    rows = [line.split()[0].split("-") for line in maps if "x.safetensors" in line]
    spans = [(int(low, 16), int(high, 16)) for low, high in rows]
    for weight in matrices(model):
        assert any(low <= weight.stored.data_ptr() < high for low, high in spans)


def test_parts_of_several_kinds_are_joined_and_encoded(tmp_path):
    _, state = saved(flux, tmp_path, "diffusers")
    stored = squeezed(state, "", E4M3)
    for name in state:  # some layers were left in full precision, as converters do
        if "attn.to_k." in name:
            stored[name] = state[name].bfloat16()
            stored.pop(name.removesuffix("weight") + "scale_weight", None)
    save_file(stored, tmp_path / "x.safetensors")
    model = load(flux, tmp_path / "x.safetensors", float8=True)
    whole = load(flux, tmp_path / "x.safetensors")
    assert {weight.stored.dtype for weight in matrices(model)} == {E4M3}
    for ours, theirs in zip(outcome(flux, model), outcome(flux, whole), strict=True):
        assert 0 < error(ours, theirs) < 0.2


# ---- whole backbones, and what cannot be -------------------------------------------------------


@pytest.mark.parametrize("name", ["flux", "wan"])
def test_a_backbone_of_float8(tmp_path, name):
    folder = {"flux": write_folder, "wan": write_wan}[name](tmp_path / "x")
    backbone = weights.load_backbone(name, folder, weights_dtype="float8", offload=True)
    assert {weight.stored.dtype for weight in matrices(backbone.model)} == {E4M3}
    assert {part.dtype for part in backbone.vae.parameters()} == {torch.float32}
    headers = weights.load_backbone(name, folder, "meta", weights_dtype="float8", offload=True)
    assert (headers.width, headers.blocks) == (backbone.width, backbone.blocks)


def test_what_is_not_offered_is_one_line(tmp_path):
    def load(**how):
        weights.load_backbone("flux", tmp_path, **how)

    assert error_of(lambda: load(weights_dtype="int8")) == (
        "--weights-dtype int8: expected float8, or leave it out"
    )
    message = error_of(lambda: load(weights_dtype="float8", device="mps"))
    assert "no float8 on mps" in message
