"""The prompt in WAN: one-pass, prepared and checkpointed forms against the literal two passes."""

import math

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from tests.oracles.prompts import write_wan
from tests.oracles.wan import (
    N_BLOCKS,
    D,
    L,
    a_prompt,
    diffusers_twin,
    error,
    exact,
    inject,
    inputs,
    literal,
    random,
    run_twin,
    tiny,
)
from tinybridge.prompt import Prompt
from tinybridge.wan import Wan, WanConfig


@pytest.mark.parametrize(("dtype", "bar"), [(torch.float32, 1e-5), (torch.float64, 1e-6)])
def test_prompt_equals_diffusers_cross_attention_called_twice(dtype, bar):
    model, given, prompt = tiny(dtype), inputs(dtype), a_prompt(dtype=dtype)
    want = run_twin(inject(diffusers_twin(model), prompt), **given)
    assert error(model(**given), want) > 0.05  # the prompt does something
    assert error(model(**given, prompt=prompt), want) < bar
    given["context"] = given["context"][:1]
    want = run_twin(inject(diffusers_twin(model), prompt), **expanded(given))
    assert error(model(**given, prompt=model.prepare([prompt], given["context"])), want) < bar
    prompt.gates[3] += 0.01
    assert error(model(**given, prompt=prompt), want) > bar


def expanded(given: dict) -> dict:
    return {**given, "context": given["context"].expand(len(given["x"]), -1, -1)}


def test_prompt_and_its_gradients_equal_the_formulas_in_fp64():
    model, given = tiny(torch.float64), exact(inputs(torch.float64))
    gradients = []
    for form in (model, lambda **a: literal(model.state_dict(), model.config, **a)):
        prompt = a_prompt(dtype=torch.float64)
        prompt.residual.requires_grad_(), prompt.gates.requires_grad_()
        out = form(**given, prompt=prompt)
        loss = (out * random(*out.shape, seed=9, dtype=torch.float64)).sum()
        gradients.append((out.detach(), *torch.autograd.grad(loss, vars(prompt).values())))
    for ours, theirs in zip(*gradients, strict=True):
        assert error(ours, theirs) < 1e-10
    assert error(gradients[0][1].flip(0), gradients[1][1]) > 1e-3


def test_gates_of_zero_equal_no_prompt_bit_for_bit():
    for dtype in (torch.float32, torch.bfloat16):
        model, given, prompt = tiny(dtype), inputs(dtype), a_prompt()
        given["context"] = given["context"][:1]
        prompt.gates.zero_()
        assert torch.equal(model(**given), model(**given, prompt=prompt))
        with_it, without = (model.prepare(some, given["context"]) for some in ([prompt], []))
        assert torch.equal(model(**given, prompt=without), model(**given, prompt=with_it))


def test_gradients_reach_residual_and_gates_and_nothing_else():
    model, given, prompt = tiny(), inputs(), a_prompt()
    prompt.residual.requires_grad_(), prompt.gates.requires_grad_()
    model(**given, prompt=prompt).square().mean().backward()
    assert (prompt.residual.grad.abs().amax(1) > 0).all()
    assert (prompt.gates.grad != 0).all()
    assert all(weight.grad is None for weight in model.parameters())
    assert all(value.grad is None for value in given.values())


def test_gates_of_zero_stop_the_residuals_gradient_only():
    model, given, prompt = tiny(), inputs(), a_prompt()
    prompt.gates.zero_().requires_grad_(), prompt.residual.requires_grad_()
    model(**given, prompt=prompt).square().mean().backward()
    assert (prompt.residual.grad == 0).all()
    assert (prompt.gates.grad != 0).all()


@pytest.mark.parametrize("rows", [L, 226, 3])
@pytest.mark.parametrize(("dtype", "bar"), [(torch.float32, 1e-5), (torch.float64, 1e-12)])
def test_prepared_keys_equal_the_literal_passes(dtype, bar, rows):
    """226 rows: 3 of text and 223 of padding, which become one. 3 rows: nothing to fold."""
    model, given, prompt = tiny(dtype), inputs(dtype, rows=rows), a_prompt(rows=rows, dtype=dtype)
    given["context"] = given["context"][:1]
    folded = min(rows, 4)
    terms = model.prepare([prompt], given["context"])
    assert [tuple(term.text[0].shape) for term in terms.blocks] == [(1, folded, 3, 16)] * N_BLOCKS
    assert (terms.blocks[0].bias is None) == (rows == 3)
    given = exact(given) if dtype == torch.float64 else given
    w = {name: weight.double() for name, weight in model.state_dict().items()}
    want = literal(w, model.config, **exact(given), prompt=prompt)
    assert error(model(**given, prompt=terms), want) < bar
    assert error(model(**given, prompt=terms), model(**given, prompt=prompt)) < bar
    if rows > 3:
        for term in terms.blocks:
            term.bias[-1] = 0
        assert error(model(**given, prompt=terms), want) > 1e-2


def test_three_prepared_prompts_run_as_one_sample_major_batch():
    model, given = tiny(torch.float64), inputs(torch.float64)
    given["context"] = given["context"][:1]
    prompts = [a_prompt(seed, dtype=torch.float64) for seed in (5, 6, 7)]
    want = torch.stack([model(**given, prompt=prompt) for prompt in prompts], 1).flatten(0, 1)
    repeated = {name: given[name].repeat_interleave(3, 0) for name in "xt"}
    repeated["context"] = given["context"]
    terms = model.prepare(prompts, given["context"])
    assert terms.count == 3 and model.prepare([], given["context"]).count == 1
    assert [tuple(term.prompt[1].shape) for term in terms.blocks] == [(3, L, 3, 16)] * N_BLOCKS
    assert error(model(**repeated, prompt=terms), want) < 1e-12
    other = model.prepare(prompts[::-1], given["context"])
    assert error(model(**repeated, prompt=other), want) > 1e-2


def test_terms_replace_the_text_and_the_times_weights():
    model, given, prompt = tiny(torch.float64), inputs(torch.float64), a_prompt()
    given["context"] = given["context"][:1]
    want = model(**given, prompt=prompt)
    times = torch.tensor([0.4, 0.8, 0.1, 0.399])
    terms = model.prepare([prompt], given["context"], times)
    untabled = model.prepare([prompt], given["context"])
    for name, weight in model.named_parameters():
        if any(part in name for part in ("text_", "time_", "cross_attn.k", "cross_attn.v")):
            weight.fill_(math.nan)
    assert error(model(**given, prompt=terms), want) < 1e-12
    assert model(**given, prompt=untabled).isnan().all()
    given["t"] = given["t"] + 1e-4
    with pytest.raises(ValueError, match="not among the 4 prepared times"):
        model(**given, prompt=terms)


def test_checkpointing_gives_the_same_gradients_and_runs_each_block_twice():
    results = []
    for checkpointing in (False, True):
        model, given, prompt = tiny(), inputs(), a_prompt()
        model.checkpointing, calls = checkpointing, []
        for block in model.blocks:
            block.register_forward_pre_hook(lambda *_: calls.append(1))  # noqa: B023
        prompt.residual.requires_grad_(), prompt.gates.requires_grad_()
        model(**given, prompt=prompt).square().mean().backward()
        results.append((prompt.residual.grad, prompt.gates.grad))
        assert len(calls) == N_BLOCKS * (1 + checkpointing)
    for kept, recomputed in zip(*results, strict=True):
        assert torch.equal(kept, recomputed)


def flops(run) -> int:
    """Of one call. The counter knows the attention of the CPU only as matrix products."""
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops()


def test_prepared_cross_attention_costs_half_of_the_literal_passes():
    model, given, prompt = tiny(depth=1), inputs(B=1, rows=226), a_prompt(rows=226)
    prompt.gates = prompt.gates[:1]
    N, rows, x = 480, 226, random(1, 480, D, seed=4)  # more video than text, as in use
    text = model.text_embedding(given["context"])  # [1, L, D]
    term = model.prepare([prompt], given["context"]).blocks[0]
    block, twin = model.blocks[0], inject(diffusers_twin(model), prompt).blocks[0].attn2
    assert error(block.cross(x, term), twin(x, text)) < 1e-5

    literally, prepared = flops(lambda: twin(x, text)), flops(lambda: block.cross(x, term))
    assert literally == 2 * (4 * N * D * D + 4 * rows * D * D + 4 * N * rows * D)
    assert prepared == 4 * N * D * D + 4 * N * (rows + 4) * D
    print(f"cross-attention: literal {literally:,} FLOPs, prepared {prepared:,}")
    assert prepared < 0.5 * literally


def test_the_authors_prompt_runs_in_full_width(tmp_path):
    file = write_wan(tmp_path / "haze.pt")
    prompt = Prompt.load(file).requires_grad_(False)
    with torch.device("meta"):
        whole = Wan(WanConfig())
        x, t, context = torch.zeros(2, 16, 3, 8, 12), torch.ones(2), torch.zeros(1, 226, 4096)
    assert whole(x, t, context, prompt.to("meta")).shape == (2, 16, 3, 8, 12)

    prompt = Prompt.load(file).requires_grad_(False)
    model = tiny(**vars(WanConfig(depth=1)))
    context = torch.zeros(1, 226, 4096)
    context[0, 0] = random(4096, seed=3)
    given = dict(x=random(1, 16, 1, 4, 6, seed=1), t=torch.tensor([0.399]), context=context)
    with pytest.raises(ValueError, match="30 gates, this WAN with its text .* 1 blocks"):
        model(**given, prompt=prompt)
    prompt.gates.data = prompt.gates.data[-1:]
    want = run_twin(inject(diffusers_twin(model), prompt), **given)
    assert error(model(**given, prompt=prompt), want) < 1e-5
    assert error(model(**given, prompt=model.prepare([prompt], context)), want) < 1e-5
    assert error(model(**given), want) > 1e-3
