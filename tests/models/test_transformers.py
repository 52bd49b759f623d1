"""What FLUX and WAN promise alike: independence of samples, training, and all about a prompt."""

import math

import pytest
import torch

from tests.oracles import flux, wan
from tests.oracles.plain import error, exact, expanded, one_text, random, repeated
from tinybridge.flux import Flux, FluxConfig
from tinybridge.flux import init_weights as init_flux
from tinybridge.wan import Wan, WanConfig
from tinybridge.wan import init_weights as init_wan

both = pytest.mark.parametrize("oracle", [flux, wan], ids=["flux", "wan"])
# FLUX takes a prompt of fewer rows than the text too.
rows_of_both = pytest.mark.parametrize(
    ("oracle", "rows"), [(flux, flux.L), (flux, 4), (wan, wan.L)], ids=str
)


def learnable(oracle, **options):
    prompt = oracle.a_prompt(**options)
    prompt.residual.requires_grad_()
    prompt.gates.requires_grad_()
    return prompt


def fresh(oracle, seed):
    """A model with its weights to train from."""
    if oracle is flux:
        model, init = Flux(FluxConfig(**flux.TINY)), init_flux
    else:
        model, init = Wan(WanConfig(**wan.TINY)), init_wan
    init(model, seed)
    return model


# ---- without a prompt --------------------------------------------------------------------------


@both
def test_any_perturbed_weight_breaks_the_comparison_with_diffusers(oracle):
    model, given = oracle.tiny(depth=2), oracle.inputs()
    want = oracle.run_twin(oracle.diffusers_twin(model), **given)
    for name, weight in model.named_parameters():
        kept = weight.clone()
        weight.view(-1)[len(weight.view(-1)) // 2] += 0.5
        assert error(model(**given), want) > 1e-5, name
        weight.copy_(kept)
    assert error(model(**given), want) < 1e-5


@pytest.mark.parametrize(
    ("oracle", "guidance"),
    [(flux, {"guidance": True}), (flux, {"guidance": False}), (wan, {})],
    ids=["dev", "schnell", "wan"],
)
def test_forward_equals_the_formulas_in_fp64(oracle, guidance):
    model = oracle.tiny(torch.float64, **guidance)
    given = exact(oracle.inputs(torch.float64, **guidance))
    want = oracle.literal(model.state_dict(), model.config, **given)
    assert error(model(**given), want) < 1e-10
    model.get_parameter(oracle.SOME_WEIGHT)[3, 4] += 1e-4
    assert error(model(**given), want) > 1e-10


@both
def test_samples_do_not_see_each_other_and_conditioning_broadcasts(oracle):
    model, given = oracle.tiny(torch.float64), one_text(exact(oracle.inputs(torch.float64)))
    together = model(**given)
    for b in range(3):
        alone = model(**{**given, "x": given["x"][b : b + 1], "t": given["t"][b : b + 1]})
        assert error(alone[0], together[b]) < 1e-12


@both
def test_time_is_told_in_thousands(oracle):
    model, given = oracle.tiny(torch.float64), exact(oracle.inputs(torch.float64))
    want = oracle.literal(model.state_dict(), model.config, **given)
    assert error(model(**{**given, "t": given["t"] * 1000}), want) > 1e-2


@both
def test_init_starts_from_a_zero_velocity_and_a_seed_fixes_it(oracle):
    first, again, other = (fresh(oracle, seed) for seed in (0, 0, 1))
    assert first(**oracle.inputs()).abs().max() == 0
    for (name, a), b, c in zip(
        first.named_parameters(), again.parameters(), other.parameters(), strict=True
    ):
        assert torch.equal(a, b)
        zero = any(part in name for part in oracle.ZERO)
        assert zero == (a.abs().max() == 0), name
        assert torch.equal(a, c) == (zero or "norm" in name), name


@pytest.mark.parametrize(
    ("oracle", "steps", "bar"), [(flux, 20, 0.5), (wan, 30, 0.6)], ids=["flux", "wan"]
)
def test_all_weights_train_from_the_init(oracle, steps, bar):
    model, given = fresh(oracle, 0), oracle.inputs()
    target, losses = random(*given["x"].shape, seed=8), []
    optimiser = torch.optim.Adam(model.parameters(), 1e-2)
    for _ in range(steps):
        loss = (model(**given) - target).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < bar * losses[0]
    assert all((weight.grad != 0).any() for weight in model.parameters())


# ---- with a prompt -----------------------------------------------------------------------------


@rows_of_both
@pytest.mark.parametrize(("dtype", "bar"), [(torch.float32, 1e-5), (torch.float64, 1e-6)])
def test_prompt_equals_the_method_on_diffusers_attention(dtype, bar, oracle, rows):
    model, given = oracle.tiny(dtype), oracle.inputs(dtype)
    prompt = oracle.a_prompt(rows=rows, dtype=dtype)
    want = oracle.run_twin(oracle.inject(oracle.diffusers_twin(model), prompt), **given)
    assert error(model(**given), want) > 0.05  # the prompt does something
    assert error(model(**given, prompt=prompt), want) < bar
    given = one_text(given)
    want = oracle.run_twin(oracle.inject(oracle.diffusers_twin(model), prompt), **expanded(given))
    assert error(model(**given, prompt=oracle.prepare(model, [prompt], given)), want) < bar
    prompt.gates[3] += 0.01
    assert error(model(**given, prompt=prompt), want) > bar


@rows_of_both
def test_prompt_and_its_gradients_equal_the_formulas_in_fp64(oracle, rows):
    model, given = oracle.tiny(torch.float64), exact(oracle.inputs(torch.float64))
    gradients = []
    for form in (model, lambda **a: oracle.literal(model.state_dict(), model.config, **a)):
        prompt = learnable(oracle, rows=rows, dtype=torch.float64)
        out = form(**given, prompt=prompt)
        loss = (out * random(*out.shape, seed=9, dtype=torch.float64)).sum()
        gradients.append((out.detach(), *torch.autograd.grad(loss, vars(prompt).values())))
    for ours, theirs in zip(*gradients, strict=True):
        assert error(ours, theirs) < 1e-10
    assert error(gradients[0][1].flip(0), gradients[1][1]) > 1e-3


@both
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_gates_of_zero_are_bit_equal_to_no_prompt(oracle, dtype):
    model, given, prompt = oracle.tiny(dtype), one_text(oracle.inputs(dtype)), oracle.a_prompt()
    prompt.gates.zero_()
    plain = model(**given)
    assert torch.equal(plain, model(**given, prompt=prompt))
    with_it, without = (oracle.prepare(model, some, given) for some in ([prompt], []))
    assert with_it.count == without.count == 1
    prepared = model(**given, prompt=without)
    assert torch.equal(prepared, model(**given, prompt=with_it))
    if oracle is flux:  # WAN folds the text's padding, which rounds in another way
        assert torch.equal(prepared, plain)


@both
def test_gradients_reach_residual_and_gates_and_nothing_else(oracle):
    model, given, prompt = oracle.tiny(), oracle.inputs(), learnable(oracle)
    model(**given, prompt=prompt).square().mean().backward()
    assert (prompt.residual.grad.abs().amax(1) > 0).all()
    assert (prompt.gates.grad != 0).all()
    assert all(weight.grad is None for weight in model.parameters())
    assert all(value.grad is None for value in given.values())


@both
def test_gates_of_zero_stop_the_residuals_gradient_only(oracle):
    model, given, prompt = oracle.tiny(), oracle.inputs(), learnable(oracle)
    with torch.no_grad():
        prompt.gates.zero_()
    model(**given, prompt=prompt).square().mean().backward()
    assert (prompt.residual.grad == 0).all()
    assert (prompt.gates.grad != 0).all()


@both
def test_three_prepared_prompts_run_as_one_sample_major_batch(oracle):
    model, given = oracle.tiny(torch.float64), oracle.conditioned(oracle.inputs(torch.float64))
    fewer = {"rows": 4} if oracle is flux else {}
    prompts = [oracle.a_prompt(seed, dtype=torch.float64) for seed in (5, 6, 7)]
    prompts[1] = oracle.a_prompt(6, dtype=torch.float64, **fewer)
    want = torch.stack([model(**given, prompt=prompt) for prompt in prompts], 1).flatten(0, 1)
    terms = oracle.prepare(model, prompts, given)
    assert terms.count == 3
    if oracle is flux:
        sizes = {tuple(term.shape) for term in terms.qkv}
        assert sizes == {(3, flux.L, 3 * flux.D)} and len(terms.qkv) == flux.N_BLOCKS
    else:
        sizes = {tuple(term.prompt[1].shape) for term in terms.blocks}
        assert sizes == {(3, wan.L, 3, 16)} and len(terms.blocks) == wan.N_BLOCKS
    assert error(model(**repeated(given, 3), prompt=terms), want) < 1e-12
    other = oracle.prepare(model, prompts[::-1], given)
    assert error(model(**repeated(given, 3), prompt=other), want) > 1e-2


@both
def test_terms_with_a_table_replace_the_weights_they_were_made_of(oracle):
    model, given = oracle.tiny(torch.float64), one_text(oracle.inputs(torch.float64))
    prompts = [oracle.a_prompt(seed, dtype=torch.float64) for seed in (5, 6)]
    untabled = oracle.prepare(model, prompts, given)
    tabled = oracle.prepare(model, prompts, given, torch.tensor([0.4, 0.8, 0.1, 0.399]))
    nothing = oracle.prepare(model, [], given, given["t"])
    plain, twice = model(**given), repeated(given, 2)
    want = torch.stack([model(**given, prompt=prompt) for prompt in prompts], 1).flatten(0, 1)
    for name, weight in model.named_parameters():
        if any(part in name for part in oracle.UNREAD):
            weight.fill_(math.nan)
    assert error(model(**twice, prompt=tabled), want) < 1e-12
    assert error(model(**given, prompt=nothing), plain) < 1e-12
    assert model(**twice, prompt=untabled).isnan().all()
    twice["t"] = twice["t"] + 1e-4
    with pytest.raises(ValueError, match="not among the 4 prepared times"):
        model(**twice, prompt=tabled)


@both
def test_checkpointing_gives_the_same_gradients_and_runs_each_block_twice(oracle):
    results = []
    for checkpointing in (False, True):
        model, given, prompt = oracle.tiny(), oracle.inputs(), learnable(oracle)
        model.checkpointing, calls = checkpointing, []
        for block in model.blocks:
            block.register_forward_pre_hook(lambda *_: calls.append(1))  # noqa: B023
        model(**given, prompt=prompt).square().mean().backward()
        results.append((prompt.residual.grad, prompt.gates.grad))
        assert len(calls) == oracle.N_BLOCKS * (1 + checkpointing)
    for kept, recomputed in zip(*results, strict=True):
        assert torch.equal(kept, recomputed)
