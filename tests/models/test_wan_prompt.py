"""The prompt in WAN: prepared keys and folded padding against the literal two passes."""

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from tests.oracles.plain import error, exact, random
from tests.oracles.prompts import write_wan
from tests.oracles.wan import (
    N_BLOCKS,
    D,
    L,
    a_prompt,
    diffusers_twin,
    inject,
    inputs,
    literal,
    run_twin,
    tiny,
)
from tinybridge.prompt import Prompt
from tinybridge.wan import Wan, WanConfig, padding


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


def test_a_raw_prompt_meets_folded_padding_too():
    """One context or several with unlike texts: rows are folded that pad all of them."""
    given, prompt = inputs(B=2, rows=20), a_prompt(rows=20)
    context = given["context"] = given["context"][:1].repeat(2, 1, 1)
    context[1, 3:5] = 1  # a text of 5 rows beside one of 3
    assert padding(context) == 15 and padding(context[:1]) == 17 and padding(context[1:]) == 15
    model = tiny()
    w = {name: weight.double() for name, weight in model.state_dict().items()}
    want = literal(w, model.config, **exact(given), prompt=prompt)
    assert error(model(**given, prompt=prompt), want) < 1e-5
    learned = context.clone().requires_grad_()
    assert padding(learned) == 1
    model(**(given | {"context": learned}), prompt=prompt).square().mean().backward()
    assert learned.grad.abs().amax(2).min() > 0  # every row, the equal ones too


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
