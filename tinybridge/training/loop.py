"""Learning a prompt: one loop, and what held-out pairs say of it.

    settings = Settings(steps=100)
    pairs = drawn_pairs(backbone, "haze", seed=settings.seed)
    prompt = init_prompt(backbone, settings)
    rows = learn(backbone, prompt, pairs, settings)  # in a notebook; train.py adds the flags

One step: latents (x0, y) -> a state x_t of the bridge -> one frozen forward -> the error of its
x0_hat -> AdamW on the prompt. Every random number is a function of (seed, step), so that a stopped
run goes on bit for bit, and N processes see what one would.

Letters: B global batch; latents are [C, h, w] of pictures [3, H, W], or [C, t, h, w] of clips
[3, T, H, W].
"""

import math
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor
from tqdm import tqdm

from tinybridge import __version__, bridge
from tinybridge.backbone import Backbone, Prepared
from tinybridge.data.tables import save_table
from tinybridge.metrics import measures
from tinybridge.prompt import Prompt, Tokens
from tinybridge.restoration import restore
from tinybridge.training import run_state
from tinybridge.training.machine import (
    deferred_signals,
    halved,
    least,
    processes,
    share,
    stop_asked,
)
from tinybridge.training.pairs import EVALUATION_SEED, FEW, Pairs, encode
from tinybridge.training.settings import Settings, check
from tinybridge.windows import out_of_memory

SLOWER = {"gates": 5}  # learns at the rate over this: a gate moves a whole block
QUARTERS = 4  # parts of 0..t0 whose losses are told apart
COLUMNS = "step loss loss_t1 loss_t2 loss_t3 loss_t4 lr seconds psnr ssim val_loss"  # of log.csv


def init_prompt(backbone: Backbone, settings: Settings) -> Prompt | Tokens:
    """The prompt before its first step, on the backbone's device."""
    if settings.space == "token":
        return Tokens.init(backbone.null_embeddings(), settings.seed).to(backbone.device)
    sizes = backbone.length, backbone.width, backbone.blocks
    return Prompt.init(*sizes, settings.seed).to(backbone.device)


# ---- one step ----------------------------------------------------------------------------------


def sample_losses(
    backbone: Backbone,
    prompt: Prompt | Tokens | Prepared,
    settings: Settings,
    x0: Tensor,
    y: Tensor,
    t: Tensor,
    eps: Tensor,
) -> Tensor:
    """The bridge's loss of n samples, [n]. x0, y, eps: [n, C, ...], and t [n], on any device."""
    x0, y, t, eps = (part.to(backbone.device) for part in (x0, y, t, eps))
    path = bridge.BRIDGES[settings.bridge]
    x_t, s = bridge.corrupt(path, x0, y, t, eps, settings.t0)
    v = backbone.velocity(x_t, s, prompt)  # [n, C, ...]
    return bridge.loss(v, x_t, x0, s, settings.loss)


def gradients(
    backbone: Backbone, prompt: Prompt | Tokens, pairs: Pairs, settings: Settings, step: int
) -> tuple[Tensor, Tensor]:
    """Leaves the gradients of one step, averaged over the processes, in the prompt.

    -> the times of the whole batch and the loss of each sample, [B] both, on the CPU. The batch is
    drawn everywhere from (seed, step); each process takes its share of it, `micro_batch` samples
    at once, whose gradients add up.
    """
    B = settings.batch_size
    world = processes()[1]
    g = torch.Generator().manual_seed(settings.seed * 1_000_003 + step)
    pick = torch.randint(len(pairs.x0), (B,), generator=g)  # [B]
    times = bridge.draw_times(B, settings.t0, settings.t_low, settings.power, g)  # [B]
    noise = torch.randn(B, *pairs.x0.shape[1:], generator=g)  # [B, C, ...]

    losses = torch.zeros(B, dtype=pairs.x0.dtype, device=backbone.device)
    prompt.zero_grad()
    mine = torch.arange(B)[share(B)]  # [B / world]
    for some in mine.split(settings.micro_batch or B):  # [n]
        chosen = pick[some]
        batch = pairs.x0[chosen], pairs.y[chosen], times[some], noise[some]
        loss = sample_losses(backbone, prompt, settings, *batch)  # [n]
        (loss.sum() / len(mine)).backward()
        losses[some] = loss.detach()

    if world > 1:
        dist.all_reduce(losses)
        for weight in prompt.parameters():
            dist.all_reduce(weight.grad)
            weight.grad /= world
    return times, losses.cpu()


def gradients_that_fit(
    backbone: Backbone, prompt: Prompt | Tokens, pairs: Pairs, settings: Settings, step: int
) -> tuple[Tensor, Tensor, Settings]:
    """`gradients`, and the settings of the next step: whenever memory is too small, it needs less.

    First the blocks are recomputed, then `micro_batch` is halved. It becomes the same everywhere.
    """
    while True:
        try:
            times, losses = gradients(backbone, prompt, pairs, settings, step)
            break
        except (RuntimeError, MemoryError) as error:
            B = settings.batch_size
            at_once = min(settings.micro_batch or B, len(range(B)[share(B)]))
            spent = backbone.model.checkpointing and at_once == 1
            if spent or not out_of_memory(error):
                raise
        if not backbone.model.checkpointing:
            backbone.model.checkpointing = True
            less = "backward recomputes the blocks, which needs less"
        else:
            settings = replace(settings, micro_batch=at_once // 2)
            less = f"micro-batches of {at_once // 2}, which add up"
        tqdm.write(f"out of memory: from here on {less}")
    micro_batch = least(settings.micro_batch or settings.batch_size, backbone.device)
    return times, losses, replace(settings, micro_batch=micro_batch)


def take_step(
    backbone: Backbone,
    prompt: Prompt | Tokens,
    optimizer: torch.optim.Optimizer,
    pairs: Pairs,
    settings: Settings,
    step: int,
) -> tuple[dict[str, float], Settings]:
    """One step of AdamW: its row of log.csv, and the settings of the next, see gradients_that_fit.

    The rate falls from `lr` to 0 along half a cosine; gradients are clipped to the norm 1.
    FloatingPointError if loss or gradient is not finite.
    """
    began = time.perf_counter()
    times, losses, settings = gradients_that_fit(backbone, prompt, pairs, settings, step)
    loss = losses.mean().item()
    norm = torch.nn.utils.clip_grad_norm_(prompt.parameters(), 1.0)
    finite(loss, "loss", step)
    finite(norm.item(), "gradient", step)
    rate = settings.lr * 0.5 * (1 + math.cos(math.pi * step / settings.steps))
    for group in optimizer.param_groups:
        group["lr"] = rate / group["slower"]
    optimizer.step()
    seconds = round(time.perf_counter() - began, 4)
    parts = by_time(times, losses, settings.t0)
    row = {"step": step + 1, "loss": loss, **parts, "lr": rate, "seconds": seconds}
    return row, settings


def by_time(times: Tensor, losses: Tensor, t0: float) -> dict[str, float]:
    """The mean loss of the samples in each quarter of 0..t0: loss_t1 is the clean end's.

    times, losses: [B]. Quarters that no sample fell into are left out.
    """
    quarter = (times / t0 * QUARTERS).long().clamp(max=QUARTERS - 1)  # [B]
    found = quarter.unique().tolist()
    return {f"loss_t{k + 1}": losses[quarter == k].mean().item() for k in found}


def finite(value: float, what: str, step: int) -> None:
    """FloatingPointError if it is not."""
    if not math.isfinite(value):
        raise FloatingPointError(f"the {what} became {value} at step {step + 1}")


# ---- the loop ----------------------------------------------------------------------------------


def learn(
    backbone: Backbone,
    prompt: Prompt | Tokens,
    pairs: Pairs,
    settings: Settings,
    out: Path | None = None,
    resume: bool = False,
    facts: dict[str, object] | None = None,
    quiet: bool = False,
) -> list[dict[str, float]]:
    """Trains the prompt; a row for every step: its loss and, every so often, what `validate` says.

    out: a folder for prompt, log and state, made if need be; None: nothing is written. resume: from
    the state that lies there, which must have had the same facts and settings, but for `every` and
    `micro_batch`: the smaller of the two goes on.
    Fewer rows than steps: SIGINT or SIGTERM ended it, which only the main thread hears.
    ValueError for settings that cannot be; FloatingPointError if a loss or a restored picture is
    not finite.
    """
    rank, world = processes()
    check(settings, world)
    groups = [{"params": [p], "slower": SLOWER.get(n, 1)} for n, p in prompt.named_parameters()]
    optimizer = torch.optim.AdamW(groups, weight_decay=0.0)
    prompt.meta |= run_state.of_model(backbone) | {"version": __version__}
    for name in ("bridge", "space", "t0", "t_low", "seed", "loss"):
        prompt.meta[name] = str(getattr(settings, name))
    same = run_state.shared(settings, backbone, facts)
    micro_batch = settings.micro_batch or settings.batch_size

    done, rows = 0, []
    if resume:
        if out is None:
            raise ValueError("to resume a run, `out` must name its folder")
        done, kept = run_state.load_state(out, prompt, optimizer, same)
        micro_batch = min(micro_batch, int(kept.get("micro_batch", micro_batch)))
        rows = run_state.load_log(out, done)
    settings = replace(settings, micro_batch=micro_batch)
    if out and rank == 0:
        out.mkdir(parents=True, exist_ok=True)

    def save() -> None:
        prompt.meta["steps"] = str(done)
        if out and rank == 0:  # the state last: what it names is there
            save_table(out / run_state.LOG, COLUMNS, rows)
            prompt.save(out / "prompt.safetensors")
            facts_now = same | {"micro_batch": settings.micro_batch}
            run_state.save_state(out, prompt, optimizer, done, facts_now)

    quiet = quiet or rank > 0
    every, last = settings.every or settings.steps // 6 or 1, settings.steps
    bar = tqdm(range(done, last), "train", last, initial=done, disable=quiet)
    with bar, deferred_signals() as signals:
        for step in bar:
            row, settings = take_step(backbone, prompt, optimizer, pairs, settings, step)
            if len(rows) == 0 and row["seconds"] > 1 and not quiet:
                bar.write(f"{row['seconds']:.1f} s a step")
            rows.append(row)
            done = step + 1
            bar.set_postfix(loss=f"{row['loss']:.4f}")
            if stop_asked(signals, backbone.device):
                break
            if done % every == 0 or done == last:
                if rank == 0:
                    row |= validate(backbone, prompt, pairs, settings)
                    finite(row["psnr"], "PSNR of restored pictures", step)
                if not quiet:
                    held_out = min(FEW, len(pairs.clean))
                    bar.write(f"step {done}: PSNR {row['psnr']:.2f} dB, {held_out} held out")
                save()
        save()
    return rows


# ---- judging -----------------------------------------------------------------------------------


@torch.no_grad()
def validate(
    backbone: Backbone, prompt: Prompt | Tokens, pairs: Pairs, settings: Settings
) -> dict[str, float]:
    """psnr, ssim and val_loss of the first FEW held-out pairs: 8 sampler steps; the bridge's loss.

    The loss is taken at four fixed times and fixed noise for each, so that steps can be compared.
    """
    judge = partial(validate_in_parts, backbone, prompt, pairs, settings)
    return halved(judge, settings.micro_batch or settings.batch_size)


def validate_in_parts(
    backbone: Backbone, prompt: Prompt | Tokens, pairs: Pairs, settings: Settings, n: int
) -> dict[str, float]:
    """`validate`, n pairs at a time."""
    degraded, clean = pairs.degraded[:FEW], pairs.clean[:FEW]
    name, t0, low = settings.bridge, settings.t0, settings.t_low
    restored = restore(backbone, [prompt], degraded, name, steps=8, t0=t0, batch_size=n)
    found = measures(restored, clean)
    terms = backbone.prepare([prompt])
    y, x0 = (encode(backbone, pixels) for pixels in (degraded, clean))  # [M, C, ...]
    losses = []
    for eighths in (1, 3, 5, 7):
        g = torch.Generator().manual_seed(EVALUATION_SEED + eighths)
        eps = torch.randn(x0.shape, generator=g).to(x0)  # [M, C, ...]
        t = torch.full((len(x0),), low + eighths / 8 * (t0 - low))  # [M]
        for some in torch.arange(len(x0)).split(n):  # [n]
            batch = x0[some], y[some], t[some], eps[some]
            losses.append(sample_losses(backbone, terms, settings, *batch))  # [n]
    val_loss = torch.cat(losses).mean().item()
    return {"psnr": found["psnr"], "ssim": found["ssim"], "val_loss": val_loss}
