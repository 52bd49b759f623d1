"""Learning a prompt: pairs as latents, one loop, and what held-out pairs say of it.

    settings = Settings(steps=100)
    pairs = drawn_pairs(backbone, "haze", seed=settings.seed)
    prompt = init_prompt(backbone, settings)
    rows = learn(backbone, prompt, pairs, settings)  # in a notebook; train.py adds the flags

One step: latents (x0, y) -> a state x_t of the bridge -> one frozen forward -> the error of its
x0_hat -> AdamW on the prompt. Every random number is a function of (seed, step), so that a stopped
run goes on bit for bit, and N processes see what one would.

Letters: B global batch, N training pairs, M held-out pairs; latents are [C, h, w] of pictures
[3, H, W], or [C, t, h, w] of clips [3, T, H, W].
"""

import math
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.distributed as dist
from tqdm import tqdm

from tinybridge import __version__, bridge
from tinybridge.backbone import Backbone
from tinybridge.data.tables import load_table, save_table
from tinybridge.metrics import measures
from tinybridge.prompt import Prompt, Tokens
from tinybridge.restoration import restore
from tinybridge.training import run_state
from tinybridge.training.pairs import EVALUATION_SEED, FEW, Pairs

RANK, WORLD = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))  # of torchrun
SLOWER = {"gates": 5}  # learns at the rate over this: a gate moves a whole block
COLUMNS = "step loss lr seconds psnr ssim val_loss"  # of log.csv


@dataclass(frozen=True)
class Settings:
    """What the result depends on, besides backbone and pairs. lr: of residual or tokens."""

    bridge: str = "desired"
    space: str = "embedding"  # or "token"
    steps: int = 300
    batch_size: int = 16  # over all processes
    lr: float = 0.15
    t0: float = 0.4
    seed: int = 0
    every: int | None = None  # steps from one look at held-out pairs to the next; None: six looks


# ---- learning ----------------------------------------------------------------------------------


def init_prompt(backbone: Backbone, settings: Settings) -> Prompt | Tokens:
    """The prompt before its first step, on the backbone's device."""
    if settings.space == "token":
        return Tokens.init(backbone.null_embeddings(), settings.seed).to(backbone.device)
    sizes = backbone.length, backbone.width, backbone.blocks
    return Prompt.init(*sizes, settings.seed).to(backbone.device)


def gradients(
    backbone: Backbone, prompt: Prompt | Tokens, pairs: Pairs, settings: Settings, step: int
) -> float:
    """Leaves the gradients of one step, averaged over the processes, in the prompt; the loss.

    The whole batch is drawn everywhere from (seed, step); each process takes its share of it.
    """
    B = settings.batch_size
    g = torch.Generator().manual_seed(settings.seed * 1_000_003 + step)
    pick = torch.randint(len(pairs.x0), (B,), generator=g)  # [B]
    t = bridge.draw_times(B, settings.t0, generator=g)  # [B]
    eps = torch.randn(B, *pairs.x0.shape[1:], generator=g)  # [B, C, ...]
    share = slice(RANK * B // WORLD, (RANK + 1) * B // WORLD)
    batch = (pairs.x0[pick], pairs.y[pick], t, eps)
    x0, y, t, eps = (k[share].to(backbone.device) for k in batch)  # [B / WORLD, ...] each
    x_t, s = bridge.corrupt(bridge.BRIDGES[settings.bridge], x0, y, t, eps, settings.t0)
    v = backbone.velocity(x_t, s, prompt)  # [B / WORLD, C, ...]
    loss = bridge.loss(v, x_t, x0, s).mean()
    prompt.zero_grad()
    loss.backward()
    if WORLD == 1:
        return loss.item()
    learned = list(prompt.parameters())
    flat = torch.cat([p.grad.flatten() for p in learned] + [loss.detach().float()[None]])
    dist.all_reduce(flat)
    *parts, total = (flat / WORLD).split([p.numel() for p in learned] + [1])
    for p, part in zip(learned, parts, strict=True):
        p.grad.copy_(part.view_as(p))
    return total.item()


def first_gradients(backbone: Backbone, *args) -> float:
    """`gradients`, tried again with recomputed blocks where the memory is too small for them."""
    try:
        return gradients(backbone, *args)
    except torch.OutOfMemoryError:
        if backbone.model.checkpointing:
            raise
    backbone.model.checkpointing = True
    tqdm.write("out of memory: from here on backward recomputes the blocks, which needs less")
    return gradients(backbone, *args)


def learn(
    backbone: Backbone,
    prompt: Prompt | Tokens,
    pairs: Pairs,
    settings: Settings,
    out: Path | None = None,
    go_on: bool = False,
    facts: dict[str, object] | None = None,
    quiet: bool = False,
) -> list[dict]:
    """Trains the prompt; a row for every step: loss and, every so often, what `validate` says.

    out: a folder for prompt, log and state, None: nothing is written. go_on: from the state that
    lies there, which must have had the same settings and facts. Fewer rows than steps: SIGINT or
    SIGTERM ended it. FloatingPointError if a loss or a restored picture is not finite.
    """
    groups = [{"params": [p], "slower": SLOWER.get(n, 1)} for n, p in prompt.named_parameters()]
    optimizer = torch.optim.AdamW(groups, weight_decay=0.0)
    shared = asdict(settings) | (facts or {})
    told = {key: str(shared[key]) for key in ("bridge", "space", "t0", "seed")}
    prompt.meta |= {"backbone": backbone.name, "grid": str(backbone.grid).lower(), **told}
    prompt.meta["version"] = __version__
    begin = run_state.load_state(out, prompt, optimizer, shared) if go_on else 0
    # A run that was killed may have logged more than it saved.
    log = load_table(out / "log.csv") if begin else []
    rows = [row for row in log if row["step"] <= begin]
    every, last = settings.every or settings.steps // 6 or 1, settings.steps

    def save(done: int) -> None:
        prompt.meta["steps"] = str(done)
        if out and RANK == 0:
            prompt.save(out / "prompt.safetensors")
            run_state.save_state(out, prompt, optimizer, done, shared)
            save_table(out / "log.csv", COLUMNS, rows)

    hide, compute = quiet or RANK > 0, first_gradients
    bar = tqdm(range(begin, last), "train", last, initial=begin, disable=hide)
    with bar, deferred_signals() as signals:
        for step in bar:
            began = time.perf_counter()
            loss, compute = compute(backbone, prompt, pairs, settings, step), gradients
            norm = torch.nn.utils.clip_grad_norm_(prompt.parameters(), 1.0)
            finite(loss, "loss", step)
            finite(norm.item(), "gradient", step)
            rate = settings.lr * 0.5 * (1 + math.cos(math.pi * step / last))
            for group in optimizer.param_groups:
                group["lr"] = rate / group["slower"]
            optimizer.step()
            seconds = round(time.perf_counter() - began, 4)
            rows.append({"step": step + 1, "loss": loss, "lr": rate, "seconds": seconds})
            bar.set_postfix(loss=f"{loss:.4f}")
            asked = torch.tensor([len(signals)], device=backbone.device)
            if WORLD > 1:
                dist.all_reduce(asked)  # a signal to one process ends all of them after one step
            if asked.item():
                break
            if (step + 1) % every == 0 or step + 1 == last:
                if RANK == 0:
                    rows[-1] |= validate(backbone, prompt, pairs, settings)
                    finite(rows[-1]["psnr"], "PSNR of restored pictures", step)
                    if not hide:
                        quality = f"PSNR {rows[-1]['psnr']:.2f} dB"
                        bar.write(f"step {step + 1}: {quality}, {len(pairs.clean[:FEW])} held out")
                save(step + 1)
        save(int(rows[-1]["step"]) if rows else begin)
    return rows


def finite(value: float, what: str, step: int) -> None:
    """FloatingPointError if it is not."""
    if not math.isfinite(value):
        raise FloatingPointError(f"the {what} became {value} at step {step + 1}")


@contextmanager
def deferred_signals() -> Iterator[list[int]]:
    """Inside, SIGINT and SIGTERM only end up in the list."""
    noted, numbers = [], (signal.SIGINT, signal.SIGTERM)
    usual = [signal.signal(number, lambda number, _: noted.append(number)) for number in numbers]
    try:
        yield noted
    finally:
        for number, handler in zip(numbers, usual, strict=True):
            signal.signal(number, handler)


# ---- judging -----------------------------------------------------------------------------------


@torch.no_grad()
def validate(
    backbone: Backbone, prompt: Prompt | Tokens, pairs: Pairs, settings: Settings
) -> dict[str, float]:
    """psnr, ssim and val_loss of the first FEW held-out pairs: 8 sampler steps; the bridge's loss.

    The loss is taken at four fixed times and fixed noise for each, so that steps can be compared.
    """
    degraded, clean = pairs.degraded[:FEW], pairs.clean[:FEW]
    path, B, losses = bridge.BRIDGES[settings.bridge], settings.batch_size, []
    seen = restore(backbone, [prompt], degraded, path.name, 8, settings.t0, batch_size=B)
    terms = backbone.prepare([prompt])
    for k in range(0, len(clean), B):
        y, x0 = (backbone.encode(part[k : k + B]) for part in (degraded, clean))  # [B, C, ...]
        for share in (1 / 8, 3 / 8, 5 / 8, 7 / 8):
            g = torch.Generator().manual_seed(EVALUATION_SEED + k + int(8 * share))
            t = torch.full((len(x0),), share * settings.t0)  # [B]
            eps = torch.randn(x0.shape, generator=g).to(x0)
            x_t, s = bridge.corrupt(path, x0, y, t, eps, settings.t0)
            losses.append(bridge.loss(backbone.velocity(x_t, s, terms), x_t, x0, s))  # [B]
    values = measures(seen, clean) | {"val_loss": torch.cat(losses).mean().item()}
    return {key: values[key] for key in ("psnr", "ssim", "val_loss")}
