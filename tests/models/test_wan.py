"""WAN: keys, patches, parity, bfloat16, errors. test_transformers.py: what FLUX promises too."""

import copy
from types import SimpleNamespace

import pytest
import torch

from tests.oracles import official
from tests.oracles.plain import error
from tests.oracles.wan import a_prompt, diffusers_twin, inject, inputs, run_twin, tiny
from tinybridge.wan import FLOAT32, SIZES, Wan, WanConfig, unpack


@pytest.mark.parametrize(
    ("name", "file", "parameters"),
    [("1.3B", "wan13_vendor", 1_418_996_800), ("14B", "wan14_vendor", 14_288_491_584)],
)
def test_keys_and_shapes_are_the_vendors(name, file, parameters):
    with torch.device("meta"):
        model = Wan(WanConfig(**SIZES[name]))
    own = {key: list(value.shape) for key, value in model.state_dict().items()}
    assert own == official.shapes(file)
    assert sum(weight.numel() for weight in model.parameters()) == parameters


def test_unpack_is_frame_row_column_and_channel_fastest():
    tokens = torch.arange(2 * 12 * 12).view(2, 12, 12)  # 2 frames of 2 x 3 patches, 3 channels
    x = unpack(tokens, 2, 4, 6)
    assert x.shape == (2, 3, 2, 4, 6)
    assert x[0, :, 0, 0, 0].tolist() == [0, 1, 2]
    assert x[0, 0, 0, :2, :2].tolist() == [[0, 3], [6, 9]]
    assert x[0, 0, 0, 0].tolist() == [0, 3, 12, 15, 24, 27]
    assert x[0, 0, 0, :, 0].tolist() == [0, 6, 36, 42]
    assert x[0, 0, :, 0, 0].tolist() == [0, 72]
    assert x[1, 2, 1, 3, 5].item() == 287


@pytest.mark.parametrize("size", [(3, 6, 10), (1, 2, 2), (5, 2, 14)])
@pytest.mark.parametrize(("dtype", "bar"), [(torch.float32, 1e-5), (torch.float64, 1e-6)])
def test_forward_equals_diffusers(dtype, bar, size):
    model, given = tiny(dtype), inputs(dtype, size=size)
    twin = diffusers_twin(model)
    assert error(model(**given), run_twin(twin, **given)) < bar
    twin.blocks[1].attn2.to_k.weight[5, 7] += 0.1
    assert error(model(**given), run_twin(twin, **given)) > bar


def test_other_heads_channels_and_a_single_row_of_text():
    sizes = dict(hidden_size=40, num_heads=2, in_channels=16, depth=1, eps=1e-3)  # d = 20: 8 6 6
    model, given = tiny(**sizes), inputs(B=1, C=16, rows=1)
    want = run_twin(diffusers_twin(model), **given)
    assert error(model(**given), want) < 1e-5
    assert error(model(**given, prompt=model.prepare([], given["context"])), want) < 1e-5


def test_padding_of_the_text_is_attended():
    """A zero row is no zero key: the text's length is part of the conditioning."""
    model, given = tiny(torch.float64), inputs(torch.float64)
    longer = {**given, "context": torch.nn.functional.pad(given["context"], (0, 0, 0, 4))}
    assert error(model(**longer), model(**given)) > 1e-2


@pytest.mark.parametrize("islands", [True, False], ids=["float32 parts", "all bfloat16"])
def test_bfloat16_is_as_close_to_the_fp32_truth_as_diffusers(islands):
    """With the float32 parts of each, which are more here than there, and with none."""
    ours, prepared, theirs = [], [], []
    given = inputs(torch.bfloat16, B=1, rows=30)
    for seed in range(2):
        model = tiny(torch.bfloat16, seed, hidden_size=128, num_heads=4)
        truth_of, mixed = copy.deepcopy(model).float(), model
        if islands:
            mixed = copy.deepcopy(model)
            for name, weight in mixed.named_parameters():
                wide = any(part in name.split(".") for part in FLOAT32)
                weight.data = weight.data.float() if wide else weight.data
        whole = {name: value.float() for name, value in given.items()}
        for prompt in (None, a_prompt(width=128, rows=30)):
            truth = truth_of(**whole, prompt=prompt)
            twin = diffusers_twin(truth_of if islands else model)
            for name, weight in twin.named_parameters():
                kept = islands and any(part in name for part in twin._keep_in_fp32_modules)
                weight.data = weight.data if kept else weight.data.bfloat16()
            terms = mixed.prepare([prompt] if prompt else [], given["context"])
            ours.append((mixed(**given, prompt=prompt) - truth).square().mean())
            prepared.append((mixed(**given, prompt=terms) - truth).square().mean())
            theirs.append((run_twin(inject(twin, prompt), **given) - truth).square().mean())
    ours, prepared, theirs = (sum(squares).sqrt() for squares in (ours, prepared, theirs))
    told = f"ours {ours:.3e}, prepared {prepared:.3e}, diffusers {theirs:.3e}"
    print(told)
    assert 0 < ours < 1.1 * theirs, told
    assert 0 < prepared < 1.1 * theirs, told


def prompt_of(rows, width, gates):
    return SimpleNamespace(residual=torch.ones(rows, width), gates=torch.ones(gates))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (dict(x=torch.zeros(3, 4, 3, 6, 9)), "latent is 6 x 9"),
        (dict(x=torch.zeros(3, 4, 3, 5, 10)), "latent is 5 x 10"),
        (dict(context=torch.zeros(2, 7, 20)), "2 texts or prompts .* batch of 3"),
        (dict(prompt=prompt_of(7, 32, 4)), "7 rows of width 32 and 4 gates"),
        (dict(prompt=prompt_of(7, 48, 3)), "3 gates, this WAN .* 4 blocks"),
        (dict(prompt=prompt_of(6, 48, 4)), "6 rows .* this WAN with its text 7 rows"),
    ],
)
def test_what_does_not_fit_is_one_clear_line(change, words):
    with pytest.raises(ValueError, match=words) as caught:
        tiny()(**{**inputs(), **change})
    assert "\n" not in str(caught.value)


def test_prepare_and_its_terms_refuse_what_does_not_fit():
    model, given = tiny(), inputs()
    with pytest.raises(ValueError, match="3 contexts"):
        model.prepare([a_prompt()], given["context"])
    with pytest.raises(ValueError, match="width 32"):
        model.prepare([prompt_of(7, 32, 4)], given["context"][:1])
    two = model.prepare([a_prompt(5), a_prompt(6)], given["context"][:1])
    with pytest.raises(ValueError, match="2 texts or prompts .* batch of 3"):
        model(**given, prompt=two)
