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
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor
from tqdm import tqdm

from tinybridge import __version__, bridge
from tinybridge.backbone import Backbone
from tinybridge.data.tables import save_table
from tinybridge.metrics import measures
from tinybridge.prompt import Prompt, Tokens
from tinybridge.restoration import restore
from tinybridge.training import run_state
from tinybridge.training.machine import (
    deferred_signals,
    out_of_memory,
    processes,
    stop_asked,
)
from tinybridge.training.pairs import EVALUATION_SEED, FEW, Pairs

SPACES, LOSSES = ("embedding", "token"), ("x0", "velocity")
SLOWER = {"gates": 5}  # learns at the rate over this: a gate moves a whole block
QUARTERS = 4  # parts of 0..t0 whose losses are told apart
COLUMNS = "step loss loss_t1 loss_t2 loss_t3 loss_t4 lr seconds psnr ssim val_loss"  # of log.csv


@dataclass(frozen=True)
class Settings:
    """What the result depends on, besides backbone and pairs. lr: of residual or tokens."""

    bridge: str = "desired"
    space: str = "embedding"  # of SPACES
    steps: int = 300
    batch_size: int = 16  # over all processes
    lr: float = 0.15
    t0: float = 0.4
    seed: int = 0
    loss: str = "x0"  # of LOSSES, see bridge.loss
    power: float = 1.0  # of the drawn times, see bridge.draw_times
    every: int | None = None  # steps from one look at held-out pairs to the next; None: six looks


def check(settings: Settings, world: int = 1) -> None:
    """ValueError in one line for settings that `world` processes cannot learn with."""
    bridge.times(settings.t0)
    choices = {"bridge": tuple(bridge.BRIDGES), "space": SPACES, "loss": LOSSES}
    for name, known in choices.items():
        if getattr(settings, name) not in known:
            raise ValueError(
                f"no {name} {getattr(settings, name)!r} to learn with; choose {', '.join(known)}"
            )
    positive = (settings.steps, settings.batch_size, settings.lr, settings.power)
    if not all(0 < value < math.inf for value in positive) or settings.batch_size % world:
        raise ValueError(
            f"--steps {settings.steps}, --batch-size {settings.batch_size} and --lr {settings.lr} "
            f"must be positive, and the batch a multiple of the {world} processes"
        )


def init_prompt(backbone: Backbone, settings: Settings) -> Prompt | Tokens:
    """The prompt before its first step, on the backbone's device."""
    if settings.space == "token":
        return Tokens.init(backbone.null_embeddings(), settings.seed).to(backbone.device)
    sizes = backbone.length, backbone.width, backbone.blocks
    return Prompt.init(*sizes, settings.seed).to(backbone.device)


# ---- one step ----------------------------------------------------------------------------------


def gradients(
    backbone: Backbone, prompt: Prompt | Tokens, pairs: Pairs, settings: Settings, step: int
) -> tuple[Tensor, Tensor]:
    """Leaves the gradients of one step, averaged over the processes, in the prompt.

    -> the times of the whole batch and the loss of each sample, [B] both, on the CPU. The batch is
    drawn everywhere from (seed, step); each process takes its share of it.
    """
    B = settings.batch_size
    rank, world = processes()
    g = torch.Generator().manual_seed(settings.seed * 1_000_003 + step)
    pick = torch.randint(len(pairs.x0), (B,), generator=g)  # [B]
    times = bridge.draw_times(B, settings.t0, power=settings.power, generator=g)  # [B]
    noise = torch.randn(B, *pairs.x0.shape[1:], generator=g)  # [B, C, ...]

    share = slice(rank * B // world, (rank + 1) * B // world)
    batch = (pairs.x0[pick], pairs.y[pick], times, noise)
    x0, y, t, eps = (part[share].to(backbone.device) for part in batch)  # [B / world, ...] each
    path = bridge.BRIDGES[settings.bridge]
    x_t, s = bridge.corrupt(path, x0, y, t, eps, settings.t0)
    v = backbone.velocity(x_t, s, prompt)  # [B / world, C, ...]
    loss = bridge.loss(v, x_t, x0, s, settings.loss)  # [B / world]
    prompt.zero_grad()
    loss.mean().backward()

    losses = torch.zeros(B).to(loss)
    losses[share] = loss.detach()
    if world > 1:
        dist.all_reduce(losses)
        for weight in prompt.parameters():
            dist.all_reduce(weight.grad)
            weight.grad /= world
    return times, losses.cpu()


def gradients_that_fit(
    backbone: Backbone, prompt: Prompt | Tokens, pairs: Pairs, settings: Settings, step: int
) -> tuple[Tensor, Tensor]:
    """`gradients`; from the first time that memory is too small, with recomputed blocks."""
    try:
        return gradients(backbone, prompt, pairs, settings, step)
    except RuntimeError as error:
        if backbone.model.checkpointing or not out_of_memory(error):
            raise
    backbone.model.checkpointing = True
    tqdm.write("out of memory: from here on backward recomputes the blocks, which needs less")
    return gradients(backbone, prompt, pairs, settings, step)


def take_step(
    backbone: Backbone,
    prompt: Prompt | Tokens,
    optimizer: torch.optim.Optimizer,
    pairs: Pairs,
    settings: Settings,
    step: int,
) -> dict[str, float]:
    """One step of AdamW; its row of log.csv. FloatingPointError if loss or gradient is not finite.

    The rate falls from `lr` to 0 along half a cosine; gradients are clipped to the norm 1.
    """
    began = time.perf_counter()
    times, losses = gradients_that_fit(backbone, prompt, pairs, settings, step)
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
    return {"step": step + 1, "loss": loss, **parts, "lr": rate, "seconds": seconds}


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
    the state that lies there, which must have had the same settings (but for `every`) and facts.
    Fewer rows than steps: SIGINT or SIGTERM ended it, which only the main thread hears.
    ValueError for settings that cannot be; FloatingPointError if a loss or a restored picture is
    not finite.
    """
    rank, world = processes()
    check(settings, world)
    groups = [{"params": [p], "slower": SLOWER.get(n, 1)} for n, p in prompt.named_parameters()]
    optimizer = torch.optim.AdamW(groups, weight_decay=0.0)
    model = {"backbone": backbone.name, "grid": str(backbone.grid).lower()}
    prompt.meta |= model | {"version": __version__}
    for name in ("bridge", "space", "t0", "seed", "loss"):
        prompt.meta[name] = str(getattr(settings, name))
    shared = asdict(settings) | model | (facts or {})
    del shared["every"]

    done, rows = 0, []
    if resume:
        if out is None:
            raise ValueError("to resume a run, `out` must name its folder")
        done = run_state.load_state(out, prompt, optimizer, shared)
        rows = run_state.load_log(out, done)
    if out and rank == 0:
        out.mkdir(parents=True, exist_ok=True)

    def save() -> None:
        prompt.meta["steps"] = str(done)
        if out and rank == 0:  # the state last: what it names is there
            save_table(out / run_state.LOG, COLUMNS, rows)
            prompt.save(out / "prompt.safetensors")
            run_state.save_state(out, prompt, optimizer, done, shared)

    quiet = quiet or rank > 0
    every, last = settings.every or settings.steps // 6 or 1, settings.steps
    bar = tqdm(range(done, last), "train", last, initial=done, disable=quiet)
    with bar, deferred_signals() as signals:
        for step in bar:
            row = take_step(backbone, prompt, optimizer, pairs, settings, step)
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
    degraded, clean = pairs.degraded[:FEW], pairs.clean[:FEW]
    path, B, t0 = bridge.BRIDGES[settings.bridge], settings.batch_size, settings.t0
    restored = restore(backbone, [prompt], degraded, path.name, steps=8, t0=t0, batch_size=B)
    found = measures(restored, clean)
    terms = backbone.prepare([prompt])
    losses = []
    for k in range(0, len(clean), B):
        y, x0 = backbone.encode(degraded[k : k + B]), backbone.encode(clean[k : k + B])
        for share in (1 / 8, 3 / 8, 5 / 8, 7 / 8):
            g = torch.Generator().manual_seed(EVALUATION_SEED + k + int(8 * share))
            t = torch.full((len(x0),), share * t0)  # [B]
            eps = torch.randn(x0.shape, generator=g).to(x0)  # [B, C, ...]
            x_t, s = bridge.corrupt(path, x0, y, t, eps, t0)
            v = backbone.velocity(x_t, s, terms)  # [B, C, ...]
            losses.append(bridge.loss(v, x_t, x0, s, settings.loss))  # [B]
    val_loss = torch.cat(losses).mean().item()
    return {"psnr": found["psnr"], "ssim": found["ssim"], "val_loss": val_loss}
