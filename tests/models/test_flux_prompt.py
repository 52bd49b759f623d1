"""The prompt in FLUX: fused, prepared and checkpointed forms against the literal one."""

import math

import pytest
import torch

from tests.oracles.flux import (
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


@pytest.mark.parametrize("rows", [L, 4])
@pytest.mark.parametrize(("dtype", "bar"), [(torch.float32, 1e-5), (torch.float64, 1e-6)])
def test_prompt_equals_the_residual_added_in_front_of_diffusers_attention(dtype, bar, rows):
    model, given, prompt = tiny(dtype), inputs(dtype), a_prompt(rows=rows, dtype=dtype)
    want = run_twin(inject(diffusers_twin(model), prompt), **given)
    assert error(model(**given), want) > 0.05  # the prompt does something
    assert error(model(**given, prompt=prompt), want) < bar
    prompt.gates[3] += 0.01
    assert error(model(**given, prompt=prompt), want) > bar


@pytest.mark.parametrize("rows", [L, 4])
def test_prompt_and_its_gradients_equal_the_formulas_in_fp64(rows):
    model, given = tiny(torch.float64), exact(inputs(torch.float64))
    gradients = []
    for form in (model, lambda **a: literal(model.state_dict(), model.config, **a)):
        prompt = a_prompt(rows=rows, dtype=torch.float64)
        prompt.residual.requires_grad_(), prompt.gates.requires_grad_()
        out = form(**given, prompt=prompt)
        loss = (out * random(*out.shape, seed=9, dtype=torch.float64)).sum()
        gradients.append((out.detach(), *torch.autograd.grad(loss, vars(prompt).values())))
    for ours, theirs in zip(*gradients, strict=True):
        assert error(ours, theirs) < 1e-10
    assert error(gradients[0][1].flip(0), gradients[1][1]) > 1e-3


def test_gates_of_zero_are_bit_equal_to_no_prompt():
    for dtype in (torch.float32, torch.bfloat16):
        model, given, prompt = tiny(dtype), inputs(dtype), a_prompt()
        prompt.gates.zero_()
        plain = model(**given)
        assert torch.equal(plain, model(**given, prompt=prompt))
        assert torch.equal(plain, model(**given, prompt=model.prepare([prompt])))


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


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_prepared_terms_equal_the_raw_prompt(dtype):
    model, given, prompt = tiny(dtype), inputs(dtype), a_prompt()
    want = model(**given, prompt=prompt)
    assert error(model(**given, prompt=model.prepare([prompt])), want) < 1e-6


def test_three_prepared_prompts_run_as_one_sample_major_batch():
    model, given = tiny(torch.float64), inputs(torch.float64)
    prompts = [a_prompt(5), a_prompt(6, rows=4), a_prompt(7)]
    want = torch.stack([model(**given, prompt=prompt) for prompt in prompts], 1).flatten(0, 1)
    repeated = {name: value.repeat_interleave(3, 0) for name, value in given.items()}
    terms = model.prepare(prompts)
    assert [tuple(term.shape) for term in terms.qkv] == [(3, L, 3 * D)] * N_BLOCKS
    assert error(model(**repeated, prompt=terms), want) < 1e-12
    assert error(model(**repeated, prompt=model.prepare(prompts[::-1])), want) > 1e-2


def test_no_prompts_can_be_prepared_and_are_bit_equal_to_no_prompt():
    model, given = tiny(), inputs()
    terms = model.prepare([])
    assert terms.count == 1
    assert torch.equal(model(**given, prompt=terms), model(**given))
    given["pooled"], given["guidance"] = given["pooled"][:1], torch.ones(1)
    tabled = model.prepare([], given["t"], given["pooled"], given["guidance"])
    assert error(model(**given, prompt=tabled), model(**given)) < 1e-6


def test_tabulated_modulation_replaces_its_weights():
    model, given, prompts = tiny(torch.float64), inputs(torch.float64), [a_prompt(5), a_prompt(6)]
    given["pooled"], given["guidance"] = given["pooled"][:1], torch.ones(1)
    given = {k: v.repeat_interleave(2, 0) if len(v) > 1 else v for k, v in given.items()}
    want = model(**given, prompt=model.prepare(prompts))
    times = torch.tensor([0.4, 0.8, 0.1, 0.399])
    terms = model.prepare(prompts, times, given["pooled"], given["guidance"])
    for name, weight in model.named_parameters():
        if any(part in name for part in ("mod", "time_in", "vector_in", "guidance_in")):
            weight.fill_(math.nan)
    assert error(model(**given, prompt=terms), want) < 1e-12
    assert model(**given, prompt=model.prepare(prompts)).isnan().all()
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
