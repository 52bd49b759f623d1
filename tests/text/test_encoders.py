"""T5, UMT5 and CLIP's text model against transformers, their formulas and the published names."""

import copy

import pytest
import torch

from tests.oracles import official
from tests.oracles.plain import error, seeded
from tests.oracles.text import bucket, clip, clip_twin, literal_clip, literal_t5, t5, t5_twin
from tinybridge.text.encoders import ClipConfig, ClipText, T5Config, T5Encoder, distance_buckets

BARS = [(torch.float32, 1e-5), (torch.float64, 1e-6)]
CASES = [(False, False), (True, False), (True, True)]  # a table for each layer, a mask


def some_ids(B=3, L=150, vocab=60, seed=1):
    return torch.randint(2, vocab, (B, L), generator=seeded(seed))


def some_mask(B=3, L=150):
    """True tokens first, as many as the row says; the last row has a gap besides."""
    mask = torch.arange(L)[None] < torch.tensor([L, L // 2, 5])[:B, None]
    mask[-1, 2] = False
    return mask


def ending_ids(end: int, L=20):
    """One end, one at the first place, and a row that is padded with the end."""
    ids = some_ids(4, L, vocab=49).masked_fill_(some_ids(4, L, vocab=49) == end, 3)
    ids.masked_fill_(ids == end, 3)
    ids[0, 11], ids[1, 0], ids[2, 6:], ids[3, L - 1] = end, end, end, end
    return ids


# ---- T5 and UMT5 -------------------------------------------------------------------------------


@pytest.mark.parametrize(("dtype", "bar"), BARS)
@pytest.mark.parametrize(("per_layer", "masked"), CASES)
def test_t5_is_transformers(per_layer, masked, dtype, bar):
    model = t5(dtype, per_layer_bias=per_layer)
    ids, mask = some_ids(), some_mask() if masked else None
    got, want = model(ids, mask), t5_twin(model)(ids, mask)
    assert got.dtype == dtype and got.shape == (3, 150, 24)
    assert error(got, want) <= bar


@pytest.mark.parametrize(("per_layer", "masked"), CASES)
def test_t5_is_its_formulas(per_layer, masked):
    model = t5(per_layer_bias=per_layer)
    ids, mask = some_ids(), some_mask() if masked else None
    want = literal_t5(model.state_dict(), model.config, ids, mask)
    assert error(model(ids, mask), want) <= 1e-10
    shorter = literal_t5(model.state_dict(), model.config, ids[:, :1])
    assert error(model(ids[:, :1]), shorter) <= 1e-10


def test_buckets_start_where_the_table_says():
    starts = {r: 16 + r for r in range(1, 8)}
    starts |= {8: 24, 12: 25, 16: 26, 23: 27, 32: 28, 46: 29, 64: 30, 91: 31}
    buckets = distance_buckets(400, T5Config(), torch.device("cpu"))
    ahead, behind = buckets[0].tolist(), buckets[:, 0].tolist()
    assert ahead[0] == 0
    assert {r: b for r, b in enumerate(ahead) if r and b != ahead[r - 1]} == starts
    assert behind == [0, *(b - 16 for b in ahead[1:])]
    assert buckets.tolist() == [[bucket(j - i) for j in range(400)] for i in range(400)]


@pytest.mark.parametrize(("num_buckets", "max_distance"), [(32, 128), (16, 64), (32, 100)])
def test_buckets_are_transformers(num_buckets, max_distance):
    from transformers.models.t5.modeling_t5 import T5Attention

    config = T5Config(num_buckets=num_buckets, max_distance=max_distance)
    r = torch.arange(300)[None] - torch.arange(300)[:, None]
    want = T5Attention._relative_position_bucket(r, True, num_buckets, max_distance)
    assert torch.equal(distance_buckets(300, config, r.device), want)


def test_changing_a_pad_changes_t5_without_a_mask_only():
    """FLUX counts padding, WAN does not."""
    model, ids, mask = t5(torch.float32), some_ids(1), some_mask(2)[1:]
    other = ids.clone()
    other[0, -1] = (ids[0, -1] + 1) % 60
    valid = mask[0]
    assert error(model(other)[:, valid], model(ids)[:, valid]) > 1e-3
    assert torch.equal(model(other, mask)[:, valid], model(ids, mask)[:, valid])


def test_t5_of_input_embeddings_is_t5_of_their_ids():
    model, ids, mask = t5(per_layer_bias=True), some_ids(L=20), some_mask(L=20)
    words = model.shared(ids)
    assert torch.equal(model.encode(words), model(ids))
    assert torch.equal(model.encode(words, mask), model(ids, mask))
    words[0, 3] += 0.1
    assert error(model.encode(words), model(ids)) > 1e-4


def test_a_row_without_any_token_stays_finite():
    mask = torch.zeros(2, 9, dtype=torch.bool)
    mask[0] = True
    for dtype in (torch.float32, torch.bfloat16):
        model = t5(dtype, per_layer_bias=True)
        out = model(some_ids(2, 9), mask)
        assert out.isfinite().all()
        assert error(out[:1], model(some_ids(2, 9)[:1])) < 1e-5 + (dtype != torch.float32) * 0.02


# ---- CLIP --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("dtype", "bar"), BARS)
@pytest.mark.parametrize(("eos", "end"), [(2, 49), (7, 7), (49, 49)])
def test_clip_is_transformers(eos, end, dtype, bar):
    model = clip(dtype, eos_token_id=eos)
    twin = clip_twin(model)
    for ids in (ending_ids(end), ending_ids(end, L=13)):
        for got, want in zip(model(ids), twin(ids), strict=True):
            assert got.dtype == dtype and got.shape == want.shape
            assert error(got, want) <= bar


@pytest.mark.parametrize(("eos", "end"), [(2, 49), (7, 7)])
def test_clip_is_its_formulas(eos, end):
    model, ids = clip(eos_token_id=eos), ending_ids(end)
    for got, want in zip(
        model(ids), literal_clip(model.state_dict(), model.config, ids), strict=True
    ):
        assert error(got, want) <= 1e-10


def test_pooled_is_the_row_of_the_first_end():
    ids = ending_ids(49)
    hidden, pooled = clip()(ids)
    assert torch.equal(pooled, hidden[torch.arange(4), torch.tensor([11, 0, 6, 19])])
    assert error(pooled[2], hidden[2, -1]) > 0.01  # the padding's last row is another


# ---- all three ---------------------------------------------------------------------------------


def several(outputs) -> tuple:
    return outputs if isinstance(outputs, tuple) else (outputs,)


@pytest.mark.parametrize("kind", ["t5", "umt5", "clip"])
def test_perturbing_any_one_weight_breaks_parity(kind):
    """In fp32, where the bar is widest; only CLIP's k bias, which adds one number to all logits
    of a query, is free to differ."""
    if kind == "clip":
        model, given = clip(torch.float32), (ending_ids(49),)
        want = clip_twin(model)(*given)
    else:
        model = t5(torch.float32, per_layer_bias=kind == "umt5")
        given = (some_ids(), some_mask() if kind == "umt5" else None)
        want = t5_twin(model)(*given)
    names = [name for name, _ in model.named_parameters()]
    assert len(names) == {"t5": 30, "umt5": 32, "clip": 52}[kind]
    for i, name in enumerate(names):
        wrong = copy.deepcopy(model)
        weight = wrong.get_parameter(name)
        weight += 0.05 * torch.randn(*weight.shape, generator=seeded(i))
        pairs = zip(several(wrong(*given)), several(want), strict=True)
        errors = [error(g, w) for g, w in pairs]
        if name.endswith("k_proj.bias"):
            assert max(errors) <= 1e-5, name
        else:
            assert min(errors) > 1e-3, name


@pytest.mark.parametrize("kind", ["t5", "umt5", "clip"])
def test_bfloat16_is_as_close_to_the_truth_as_transformers(kind):
    """Root mean squares over several models: one maximum is a matter of luck."""
    ours, theirs = 0.0, 0.0
    for seed in range(6):
        if kind == "clip":
            low, ids = clip(torch.bfloat16, seed), ending_ids(49)
            truth = copy.deepcopy(low).float()(ids)[0]
            got, want = low(ids)[0], clip_twin(low)(ids)[0]
        else:
            low, ids = t5(torch.bfloat16, seed, per_layer_bias=kind == "umt5"), some_ids()
            mask = some_mask() if kind == "umt5" else None
            truth = copy.deepcopy(low).float()(ids, mask)
            got, want = low(ids, mask), t5_twin(low)(ids, mask)
        assert got.dtype == torch.bfloat16 and got.isfinite().all()
        ours += (got - truth).square().mean().item()
        theirs += (want - truth).square().mean().item()
    assert 0 < ours**0.5 <= 1.1 * theirs**0.5


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("per_layer", [False, True])
def test_activations_beyond_half_precision_stay_finite(per_layer, dtype):
    model = t5(dtype, per_layer_bias=per_layer)
    for block in model.encoder.block:
        block.layer[1].DenseReluDense.wo.weight *= 1e6
    model.shared.weight *= 1e6
    seen = []
    model.encoder.final_layer_norm.register_forward_pre_hook(lambda _, x: seen.append(x[0]))
    ids, mask = some_ids(), some_mask() if per_layer else None
    out = model(ids, mask)
    assert seen[0].abs().max() > 10 * torch.finfo(torch.float16).max
    assert out.isfinite().all()
    if dtype == torch.float32:
        assert error(out, t5_twin(model)(ids, mask)) <= 1e-5


@pytest.mark.parametrize("file", ["clip_l", "t5xxl", "umt5xxl"])
def test_full_size_names_and_shapes_are_the_published_ones(file):
    want = official.shapes(file)
    with torch.device("meta"):
        if file == "clip_l":
            model = ClipText(ClipConfig())
        elif file == "t5xxl":
            model = T5Encoder(T5Config())
        else:
            model = T5Encoder(T5Config(vocab_size=256384, per_layer_bias=True))
    got = {key: list(value.shape) for key, value in model.state_dict().items()}
    if file == "clip_l":  # transformers 5 writes no prefix, earlier releases do
        assert all(key.startswith("text_model.") for key in got)
        got = {key.removeprefix("text_model."): shape for key, shape in got.items()}
    else:  # the same matrix under two names
        assert want.pop("encoder.embed_tokens.weight") == want["shared.weight"]
    assert got == want
    count = {"clip_l": 123_060_480, "t5xxl": 4_762_310_656, "umt5xxl": 5_680_910_336}[file]
    assert sum(weight.numel() for weight in model.parameters()) == count
