"""Checks of prompts.ipynb, which ask the bundled tiny models. Each says what is wrong.

Letters: B batch, K prompts, L rows of text, D width, n blocks; latents are [B, C, h, w].
"""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from verdict import BLANK, is_blank, near, not_yet, right

from tinybridge import bridge
from tinybridge.backbone import Backbone
from tinybridge.checkpoints import load_backbone
from tinybridge.data import scenes
from tinybridge.flux import Terms
from tinybridge.prompt import Prompt
from tinybridge.restoration import restore

TRAINED = 8  # steps of `v_alone`


def some_prompt(backbone: Backbone, seed: int) -> Prompt:
    """A prompt of random numbers, large enough to be seen: gates of both signs."""
    prompt = Prompt.init(backbone.length, backbone.width, backbone.blocks, seed, std=0.5)
    gates = torch.randn(backbone.blocks, generator=torch.Generator().manual_seed(seed))
    return Prompt(prompt.residual, gates)


def some_states(backbone: Backbone, B: int = 2) -> tuple[Tensor, Tensor]:
    """Latents [B, C, h, w], of a video model [B, C, 1, h, w], and noise levels [B] for them."""
    frames = (1,) if backbone.video else ()
    generator = torch.Generator().manual_seed(0)
    pixels = torch.rand((B, 3, *frames, 32, 32), generator=generator)
    return backbone.encode(pixels), torch.full((B,), 0.4)


def alike(first: Tensor, second: Tensor) -> bool:
    """Whether two velocities are the same up to rounding."""
    return bool((first - second).norm() <= 1e-4 * first.norm())


# ---- the checks --------------------------------------------------------------------------------


def count(backbone: Backbone, answer: Callable) -> str:
    """answer(pictures, prompts, steps, batch_size) -> calls of the transformer, latents in all."""
    if is_blank(answer(3, 2, 2, 2)):
        return BLANK
    for pictures, prompts, steps, batch_size in ((1, 1, 3, 4), (3, 1, 2, 2), (3, 2, 2, 2)):
        sizes: list[int] = []

        def keep(model: object, given: Sequence, seen: list[int] = sizes) -> None:
            seen.append(len(given[0]))

        hook = backbone.model.register_forward_pre_hook(keep)
        pixels = torch.rand(pictures, 3, 32, 32)
        mixed = [some_prompt(backbone, seed) for seed in range(prompts)]
        restore(backbone, mixed, pixels, steps=steps, batch_size=batch_size)
        hook.remove()
        calls, latents = answer(pictures, prompts, steps, batch_size)
        asked = f"{pictures} pictures, {prompts} prompts, {steps} steps, batches of {batch_size}: "
        if calls != len(sizes):
            said = f"{len(sizes)} calls, you say {calls}; a batch is walked to its end, and several"
            return not_yet(asked + said + " prompts share a call")
        if latents != sum(sizes):
            said = f"{sum(sizes)} latents in all, you say {latents}; each prompt wants every state"
            return not_yet(asked + said + " for itself")
    return right("Prompts cost as pictures do: a mixture of two is twice the work.")


def mixed(backbone: Backbone, answer: Callable, w_paper: object) -> str:
    """answer(v, v_each, w) -> the velocity of several prompts, and the w of the paper's mean."""
    x, s = some_states(backbone)
    prompts = [some_prompt(backbone, seed) for seed in range(2)]
    with torch.no_grad():
        v = backbone.velocity(x, s)
        v_each = [backbone.velocity(x, s, prompt) for prompt in prompts]
        mean = backbone.velocity(x, s, backbone.prepare(prompts))
    if is_blank(answer(v, v_each, 1.0), w_paper):
        return BLANK
    if not alike(answer(v, v_each, 0.0), v):
        return not_yet("with w = 0 no prompt has a say, and the velocity must be v")
    if not alike(answer(v, v_each[:1], 1.0), v_each[0]):
        return not_yet("with one prompt and w = 1 the velocity must be that prompt's")
    both = answer(v, v_each, 1.0)
    if not alike(both, v_each[0] + v_each[1] - v):
        return not_yet("with w = 1 each of the two must add its own v_k - v, once")
    if not alike(answer(v, v_each, w_paper), mean):
        return not_yet(
            f"w = {w_paper} is not the paper's mean of the two velocities; v must drop out"
        )
    return right("So the mean of K prompts gives each 1 / K of what it does alone.")


def twin(flux: Backbone, answer: Callable, wan_too: object) -> str:
    """answer(P, gates) -> other numbers of the same velocity in FLUX; and whether in WAN too."""
    prompt = some_prompt(flux, 1)
    other = answer(prompt.residual.detach(), prompt.gates.detach())
    if is_blank(other, wan_too):
        return BLANK
    P, gates = other
    if P.shape != prompt.residual.shape or gates.shape != prompt.gates.shape:
        found = f"{list(P.shape)} and {list(gates.shape)}"
        return not_yet(f"P and gates keep their shapes; yours have become {found}")
    if torch.equal(P, prompt.residual) or torch.equal(gates, prompt.gates):
        return not_yet("both P and the gates must be other numbers than before")
    if not same(flux, prompt, Prompt(P, gates)):
        return not_yet("the velocity of FLUX has changed; it sees P and gates only as gates[i] P")
    wan = load_backbone("wan")
    other = some_prompt(wan, 1)
    changed = Prompt(*answer(other.residual.detach(), other.gates.detach()))
    if wan_too != same(wan, other, changed):
        said = "WAN was asked, and its velocity is another: it reads attn(x, E) + gates[i] "
        return not_yet(said + "attn(x, E + P), where P and gates[i] never meet as a product")
    return right("So a gate's sign says nothing in FLUX without the sign of P; in WAN it does.")


@torch.no_grad()
def same(backbone: Backbone, first: Prompt, second: Prompt) -> bool:
    """Whether two prompts have the same velocity."""
    x, s = some_states(backbone)
    return alike(backbone.velocity(x, s, first), backbone.velocity(x, s, second))


@torch.no_grad()
def longest(backbone: Backbone, answer: object) -> str:
    """The least length that no row of T5's output exceeds. backbone: with its encoder."""
    if is_blank(answer):
        return BLANK
    words = backbone.null_embeddings()  # [L, Dt]
    for scale in (0.01, 1, 10, 1000):
        found = backbone.encode_tokens(scale * words).norm(dim=2).max().item()
        if found > float(answer) + 1e-3:
            said = f"the null prompt's tokens times {scale} give a row of length {found:.2f}, more "
            return not_yet(f"{said}than your {float(answer):.2f}")
    weight = backbone.encoder.encoder.final_layer_norm.weight
    least = weight.abs().max().item() * math.sqrt(len(weight))
    if not near(answer, least, 0.01 * least):
        said = (
            f"no row is longer than {float(answer):.2f}, but {least:.2f} is a bound too; how long"
        )
        return not_yet(said + " is x / rms(x), and what can the weights make of it?")
    return right("Tokens of any size end there. Rows that are learned freely need not.")


def v_alone(backbone: Backbone, answer: Callable) -> str:
    """answer(term [K, L, 3D]) -> the same for v, 0 for q and k; then both are trained a little."""
    prompt = some_prompt(backbone, 1)
    term = backbone.model.terms([prompt])[0].detach()  # [1, L, 3D]
    before = term.clone()
    changed = answer(term)
    if is_blank(changed):
        return BLANK
    if not torch.equal(term, before):
        return not_yet("the term that came in was changed in place; make a new one")
    if changed.shape != term.shape:
        said = f"q, k and v keep their columns, {list(term.shape)}; yours is {list(changed.shape)}"
        return not_yet(said + ": put zeros where q and k were")
    q, k, v = changed.chunk(3, 2)  # [1, L, D] each
    if q.any() or k.any():
        return not_yet("q and k are the first two thirds of the last axis, and must be 0")
    if not torch.equal(v, term.chunk(3, 2)[2]):
        return not_yet("v is the last third of the last axis, and must stay as it was")
    whole, alone = train_a_little(backbone, lambda term: term), train_a_little(backbone, answer)
    return right(
        f"In {TRAINED} steps the loss went from {whole[0]:.3f} to {whole[1]:.3f} with q, k and v, "
        f"and from {alone[0]:.3f} to {alone[1]:.3f} with v alone. Train longer, then say which "
        "part restores."
    )


def train_a_little(backbone: Backbone, change: Callable) -> tuple[float, float]:
    """The loss before and after TRAINED steps on haze, the prompt's terms changed on their way."""
    degraded, clean = scenes.pairs("haze", list(range(8)))  # [8, 3, H, W] both
    y, x0 = backbone.encode(degraded), backbone.encode(clean)
    prompt = Prompt.init(backbone.length, backbone.width, backbone.blocks, seed=0)
    optimizer = torch.optim.Adam(prompt.parameters(), lr=0.1)
    losses = []
    for _ in range(TRAINED + 1):
        generator = torch.Generator().manual_seed(0)  # the same draws, so that losses compare
        t = bridge.draw_times(len(x0), generator=generator)
        noise = torch.randn(x0.shape, generator=generator)
        x_t, s = bridge.corrupt(bridge.find("desired"), x0, y, t, noise)
        terms = Terms([change(term) for term in backbone.model.terms([prompt])])
        loss = bridge.loss(backbone.velocity(x_t, s, terms), x_t, x0, s).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses[0], losses[-1]
