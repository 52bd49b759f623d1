"""The whole method on one page: a frozen text-to-image model is asked to remove haze.

    python notebooks/minimal.py

Prints the loss every 50 steps, then the mean PSNR of 64 held-out scenes: degraded, from the frozen
model without a prompt, restored (16.82, 16.67, 24.88 dB; 85 s of one core). The prompt is that of
`train.py --backbone flux`, bit for bit. runs/minimal.png: a row for each, one of clean scenes.

Letters: x0 clean latent, y degraded latent, eps unit noise, t flow time, which is the noise level
too, x_t the state at t, v velocity, x0_hat what the model makes of x_t; P the prompt's residual;
N pairs, B batch, C h w latent, H W pixels, L rows of text, D width, n blocks of the model.
"""

import math
import sys
from pathlib import Path
from types import SimpleNamespace

import torch
from PIL import Image
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1]))

from tinybridge.backbone import Backbone
from tinybridge.checkpoints import load_backbone
from tinybridge.data import scenes

KIND, PAIRS = "haze", 2048
STEPS, BATCH, RATE, SEED, CALLS = 300, 16, 0.15, 0, 20  # CALLS of the model in one restoration
T0, T_MIN = 0.4, 1e-4  # restoration starts at t = T0, with 0.6 y + 0.4 eps, and ends at T_MIN


def new_prompt(backbone: Backbone) -> SimpleNamespace:
    """All that is learned. Block i reads h + gates[i] P where it read its text rows h: flux.py."""
    g = torch.Generator().manual_seed(SEED)
    P = 0.02 * torch.randn(backbone.length, backbone.width, generator=g)  # [L, D]
    gates = torch.ones(backbone.blocks)  # [n]
    return SimpleNamespace(residual=P.requires_grad_(), gates=gates.requires_grad_())


def draw_pairs(backbone: Backbone) -> tuple[Tensor, Tensor]:
    """Latents y and x0 of drawn scenes, [N, C, h, w] both."""
    y, x0 = [], []
    for first in range(0, PAIRS, 16):
        degraded, clean = scenes.pairs(KIND, list(range(first, first + 16)))  # [16, 3, H, W] both
        y.append(backbone.encode(degraded))
        x0.append(backbone.encode(clean))
    return torch.cat(y), torch.cat(x0)


def path(t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """a, b, c of the states a x0 + b y + c eps = (1 - t) mean + t eps, in learning and sampling."""
    lam = t / T0  # the mean is y at T0, x0 at 0
    return (1 - t) * (1 - lam), (1 - t) * lam, t


def learn(backbone: Backbone, prompt: SimpleNamespace, y: Tensor, x0: Tensor) -> None:
    """Changes the prompt, and nothing else, until x0_hat is near x0 all along the path."""
    groups = [{"params": [prompt.residual]}, {"params": [prompt.gates]}]
    optimizer = torch.optim.AdamW(groups, weight_decay=0.0)
    for step in range(STEPS):
        g = torch.Generator().manual_seed(SEED * 1_000_003 + step)
        pick = torch.randint(len(x0), (BATCH,), generator=g)  # [B]
        t = T_MIN + (T0 - T_MIN) * torch.rand(BATCH, generator=g)  # [B]
        eps = torch.randn(BATCH, *x0.shape[1:], generator=g)  # [B, C, h, w]
        level = t.view(-1, 1, 1, 1)  # [B, 1, 1, 1]
        a, b, c = path(level)
        x_t = a * x0[pick] + b * y[pick] + c * eps  # [B, C, h, w]
        v = backbone.velocity(x_t, t, prompt)  # the frozen model's eps - x0
        x0_hat = x_t - level * v
        loss = (x0_hat - x0[pick]).square().mean()
        optimizer.zero_grad()
        loss.backward()  # through the frozen model into P and the gates
        torch.nn.utils.clip_grad_norm_([prompt.residual, prompt.gates], 1.0)
        rate = RATE * 0.5 * (1 + math.cos(math.pi * step / STEPS))  # half a cosine, down to 0
        optimizer.param_groups[0]["lr"] = rate
        optimizer.param_groups[1]["lr"] = rate / 5  # a gate moves a whole block
        optimizer.step()
        if (step + 1) % 50 == 0:
            print(f"step {step + 1:3}: loss {loss.item():.4f}")


@torch.no_grad()
def sample(backbone: Backbone, prompt: SimpleNamespace | None, y: Tensor) -> Tensor:
    """Walks from the degraded y [B, C, h, w] to the restored latent, [B, C, h, w]."""
    noise = torch.randn(y[:1].shape, generator=torch.Generator().manual_seed(42))  # [1, C, h, w]
    times = torch.linspace(T0, T_MIN, CALLS, dtype=torch.float64)
    a, b, c = path(times[0])  # a is 0: nothing is known of x0
    x = b * y + c * noise
    for k, t in enumerate(times):
        v = backbone.velocity(x, t.to(y).expand(len(y)), prompt)
        x0_hat = x - t * v
        if k + 1 < CALLS:
            a, b, c = path(t)
            eps_hat = (x - a * x0_hat - b * y) / c  # the noise that x must hold
            a, b, c = path(times[k + 1])
            x = a * x0_hat + b * y + c * eps_hat  # the state at the next time
    return x0_hat


def main() -> None:
    backbone = load_backbone("flux")  # the bundled tiny one; with a folder the official one
    prompt = new_prompt(backbone)
    learn(backbone, prompt, *draw_pairs(backbone))
    degraded, clean = scenes.pairs(KIND, list(range(1_000_000, 1_000_064)))  # [64, 3, H, W] both
    y = backbone.encode(degraded)  # [64, C, h, w]
    alone = backbone.decode(sample(backbone, None, y))  # [64, 3, H, W]
    restored = backbone.decode(sample(backbone, prompt, y))
    for name, shown in {"degraded": degraded, "no prompt": alone, "restored": restored}.items():
        error = (shown - clean).square().flatten(1).mean(1)  # [64]
        print(f"{name:<9} {-10 * error.log10().mean():6.2f} dB")
    rows = [torch.cat(list(shown[:6]), 2) for shown in (degraded, alone, restored, clean)]
    levels = (torch.cat(rows, 1) * 255).round().byte().permute(1, 2, 0)  # [4H, 6W, 3]
    Path("runs").mkdir(exist_ok=True)
    Image.fromarray(levels.numpy()).save("runs/minimal.png")


if __name__ == "__main__":
    main()
