"""FLUX: keys, packing, parity, bfloat16, errors. test_transformers.py: what WAN promises too."""

import copy
from types import SimpleNamespace

import pytest
import torch

from tests.oracles import official
from tests.oracles.flux import a_prompt, diffusers_twin, inject, inputs, run_twin, tiny
from tests.oracles.plain import error
from tinybridge.flux import SIZES, Flux, FluxConfig, Terms, pack, unpack


@pytest.mark.parametrize("name", ["dev", "schnell"])
def test_keys_and_shapes_are_the_vendors(name):
    with torch.device("meta"):
        model = Flux(FluxConfig(**SIZES[name]))
    own = {key: list(value.shape) for key, value in model.state_dict().items()}
    assert own == official.shapes(f"flux_{name}_bfl")
    parameters = {"dev": 11_901_408_320, "schnell": 11_891_178_560}[name]
    assert sum(weight.numel() for weight in model.parameters()) == parameters


def test_pack_is_row_major_and_channel_slowest():
    x = torch.arange(2 * 3 * 4 * 6).view(2, 3, 4, 6)
    tokens = pack(x)
    assert tokens.shape == (2, 6, 12)
    assert tokens[0, 0].tolist() == [0, 1, 6, 7, 24, 25, 30, 31, 48, 49, 54, 55]
    assert tokens[0, 1, :4].tolist() == [2, 3, 8, 9]
    assert tokens[0, 3, :4].tolist() == [12, 13, 18, 19]
    assert tokens[1, 5, -1].item() == 143
    assert torch.equal(unpack(tokens, 4, 6), x)


@pytest.mark.parametrize("guidance", [True, False])
@pytest.mark.parametrize(("dtype", "bar"), [(torch.float32, 1e-5), (torch.float64, 1e-6)])
def test_forward_equals_diffusers(dtype, bar, guidance):
    model, given = tiny(dtype, guidance=guidance), inputs(dtype, guidance=guidance)
    twin = diffusers_twin(model)
    assert error(model(**given), run_twin(twin, **given)) < bar
    twin.single_transformer_blocks[1].attn.to_k.weight[5, 7] += 0.1
    assert error(model(**given), run_twin(twin, **given)) > bar


def test_bfloat16_is_as_close_to_the_fp32_truth_as_diffusers():
    ours, theirs = [], []
    given = inputs(torch.bfloat16)
    given["t"], given["guidance"] = torch.tensor([0.1, 0.4, 0.8]), torch.ones(3)
    for seed in range(2):
        model = tiny(torch.bfloat16, seed, hidden_size=128, num_heads=4, axes_dim=(8, 12, 12))
        whole = {name: value.float() for name, value in given.items()}
        half = {name: value.bfloat16() for name, value in given.items()}
        for prompt in (None, a_prompt(width=128)):
            truth = copy.deepcopy(model).float()(**whole, prompt=prompt)
            twin = inject(diffusers_twin(model), prompt)
            ours.append((model(**given, prompt=prompt) - truth).square().mean())
            theirs.append((run_twin(twin, **half) - truth).square().mean())
    ours, theirs = sum(ours).sqrt(), sum(theirs).sqrt()
    assert 0 < ours < 1.1 * theirs, f"ours {ours:.3e}, diffusers {theirs:.3e}"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (dict(x=torch.zeros(3, 4, 6, 9)), "latent is 6 x 9"),
        (dict(x=torch.zeros(3, 4, 5, 10)), "latent is 5 x 10"),
        (dict(guidance=None), "needs guidance"),
        (dict(prompt=SimpleNamespace(residual=torch.ones(7, 32), gates=torch.ones(5))), "width 32"),
        (dict(prompt=SimpleNamespace(residual=torch.ones(7, 48), gates=torch.ones(4))), "4 gates"),
        (dict(prompt=SimpleNamespace(residual=torch.ones(8, 48), gates=torch.ones(5))), "8 rows"),
        (dict(prompt=Terms([torch.ones(1, 8, 144)] * 5, None, None)), "8 rows"),
        (dict(prompt=Terms([torch.ones(2, 7, 144)] * 5, None, None)), "2 prompts"),
    ],
)
def test_what_does_not_fit_is_one_clear_line(change, words):
    with pytest.raises(ValueError, match=words) as caught:
        tiny()(**{**inputs(), **change})
    assert "\n" not in str(caught.value)


def test_prepare_refuses_a_prompt_of_another_model():
    prompt = SimpleNamespace(residual=torch.ones(7, 32), gates=torch.ones(5))
    with pytest.raises(ValueError, match="width 32 and 5 gates, this FLUX width 48 and 5 blocks"):
        tiny().prepare([prompt])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_prepared_terms_equal_the_raw_prompt(dtype):
    model, given, prompt = tiny(dtype), inputs(dtype), a_prompt()
    want = model(**given, prompt=prompt)
    assert error(model(**given, prompt=model.prepare([prompt])), want) < 1e-6
