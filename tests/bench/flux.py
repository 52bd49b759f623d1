"""The full-size FLUX.1 transformer, random weights: time and peak memory, forward and training.

    python -m tests.bench.flux --out tests/bench/flux-gpu.md     # a GPU with 40 GB or more
    python -m tests.bench.flux --device cpu --dtype float32 --width 256 --depth 1 --side 128

bfloat16, 512 rows of text, one 1024 x 1024 picture by default. Forward with the raw prompt, with
prepared terms and modulation, and a training step with and without block checkpointing; the first
call of each kind is not counted.
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import torch

from tinybridge.flux import Flux, FluxConfig
from tinybridge.prompt import Prompt


def measure(run: Callable[[], object], device: str, repeat: int) -> tuple[float, float]:
    """Best seconds of `repeat` calls after one more, and GiB at the peak (0 on a CPU)."""
    gpu, best = device.startswith("cuda"), float("inf")
    for k in range(repeat + 1):
        if gpu:
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
        began = time.perf_counter()
        run()
        if gpu:
            torch.cuda.synchronize()
        if k:
            best = min(best, time.perf_counter() - began)
    return best, torch.cuda.max_memory_allocated() / 2**30 if gpu else 0.0


def build(config: FluxConfig, device: str, dtype: torch.dtype) -> Flux:
    """The model on the device without a copy on the host; weights too small to overflow."""
    with torch.device("meta"):
        model = Flux(config)
    model = model.to(dtype).to_empty(device=device).requires_grad_(False)
    for weight in model.parameters():
        weight.normal_(std=0.02)
    return model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16")
    parser.add_argument("--width", type=int, default=3072)
    parser.add_argument("--depth", type=int, default=19, help="joint blocks; twice as many single")
    parser.add_argument("--side", type=int, default=1024, help="of the picture, in pixels")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    device, dtype = args.device, getattr(torch, args.dtype)
    config = FluxConfig(
        hidden_size=args.width,
        num_heads=args.width // 128,
        depth=args.depth,
        depth_single=2 * args.depth,
    )
    model, blocks = build(config, device, dtype), 3 * args.depth
    prompt = Prompt.init(512, args.width, blocks, 0).to(device)
    x = torch.randn(1, 16, args.side // 8, args.side // 8, device=device)  # [1, C, h, w]
    context = torch.randn(1, 512, config.context_dim, device=device, dtype=dtype)  # [1, L, Dc]
    pooled = torch.randn(1, config.pooled_dim, device=device, dtype=dtype)  # [1, Dp]
    t, guidance = torch.full((1,), 0.4, device=device), torch.ones(1, device=device)
    terms = model.prepare([prompt], t, pooled, guidance)

    @torch.no_grad()
    def forward(given: object) -> None:
        model(x, t, context, pooled, guidance, given)

    def step(checkpointing: bool) -> None:
        model.checkpointing = checkpointing
        prompt.zero_grad()
        model(x, t, context, pooled, guidance, prompt).square().mean().backward()

    runs = {
        "forward": lambda: forward(prompt),
        "forward, prepared": lambda: forward(terms),
        "training step": lambda: step(False),
        "training step, checkpointing": lambda: step(True),
    }
    name = torch.cuda.get_device_name() if device.startswith("cuda") else "CPU"
    parameters = sum(weight.numel() for weight in model.parameters())
    lines = [
        f"{name}, torch {torch.__version__}, {args.dtype}, {parameters:,} parameters, "
        f"{args.side} x {args.side} pixels, 512 rows of text, batch 1, best of {args.repeat}",
        "",
        "| | ms | peak GiB |",
        "|---|---|---|",
    ]
    for kind, run in runs.items():
        try:
            seconds, memory = measure(run, device, args.repeat)
            lines.append(f"| {kind} | {1000 * seconds:.0f} | {memory:.1f} |")
        except torch.OutOfMemoryError:
            lines.append(f"| {kind} | out of memory | |")
    print("\n".join(lines))
    if args.out:
        args.out.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
