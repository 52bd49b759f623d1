"""What preparing WAN's cross-attention saves: the literal two passes, one pass, prepared keys.

    python -m tests.bench.wan > tests/bench/wan.md                    # one block of 1.3B, a minute
    python -m tests.bench.wan --forward --depth 30 --device cuda --dtype bfloat16

Random weights of full width, the null text (1 row of 226) and a prompt, by default for 33 frames
of 480 x 832. One table, one run: FLOPs by torch's counter, the best time of some repetitions,
peak memory on a GPU, the relative difference to the literal form.
"""

import argparse
import platform
import time
from types import SimpleNamespace

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from tinybridge.wan import SIZES, Term, Wan, WanConfig, attend, init_weights


def literal(attn, x, text, shown, gate):
    """attn(x, E) + gate attn(x, E + P): everything twice, as in the authors' wrapper."""
    first = attn.o(attend(attn.queries(x), attn.keys(text)))
    return first + gate * attn.o(attend(attn.queries(x), attn.keys(shown)))


def measure(run, device: str, repeat: int) -> tuple[float, float, torch.Tensor]:
    """Best seconds of `repeat` calls, GiB of peak memory (0 on a CPU), the last result."""
    best = float("inf")
    gpu = device.startswith("cuda")
    for _ in range(repeat):
        if gpu:
            torch.cuda.reset_peak_memory_stats()
            torch.cuda.synchronize()
        start = time.perf_counter()
        result = run()
        if gpu:
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - start)
    return best, torch.cuda.max_memory_allocated() / 2**30 if gpu else 0.0, result


def flops(run) -> int:
    """The counter knows the attention of the CPU only as matrix products."""
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops()


def table(title: str, runs: dict, device: str, repeat: int, count: bool) -> None:
    print(f"\n| {title} | GFLOP | ms | GiB | difference |\n|---|---|---|---|---|")
    want = None
    for name, run in runs.items():
        seconds, memory, out = measure(run, device, repeat)
        want = out if want is None else want
        apart = ((out - want).abs().max() / want.abs().max()).item()
        cost = f"{flops(run) / 1e9:.1f}" if count else ""
        row = f"| {name} | {cost} | {1000 * seconds:.1f} | {memory:.1f} | {apart:.1e} |"
        print(row, flush=True)


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", choices=SIZES, default="1.3B")
    parser.add_argument("--depth", type=int, default=1, help="blocks")
    parser.add_argument("--latent", type=int, nargs=3, default=(9, 60, 104), help="T H W")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--forward", action="store_true", help="time the whole model too")
    args = parser.parse_args()

    dtype, device = getattr(torch, args.dtype), args.device
    config = WanConfig(**{**SIZES[args.model], "depth": args.depth})
    model = Wan(config).requires_grad_(False)
    init_weights(model, 0)
    model.head.head.weight.normal_(std=0.02)
    model.to(device, dtype)
    (T, H, W), D, L = args.latent, config.hidden_size, 226
    prompt = SimpleNamespace(
        residual=0.1 * torch.randn(L, D, device=device),
        gates=torch.full((config.depth,), 0.4, device=device),
    )
    context = torch.zeros(1, L, config.context_dim, device=device)
    context[:, 0].normal_()
    terms = model.prepare([prompt], context)
    name = torch.cuda.get_device_name() if device.startswith("cuda") else platform.machine()
    print(
        f"{args.model}, {args.depth} blocks, latent {T} x {H} x {W}, {args.dtype}, {device} {name}"
    )

    block, text = model.blocks[0], model.text_embedding(context.to(dtype))  # [1, L, D]
    shown = (text + prompt.residual).to(dtype)  # [1, L, D]
    x = torch.randn(1, T * H * W // 4, D, device=device, dtype=dtype)  # [1, N, D]
    forms = {
        "literal": lambda: literal(block.cross_attn, x, text, shown, prompt.gates[0]),
        "one pass": lambda: block.cross(x, model.terms(text, [prompt])[0]),
        "prepared": lambda: block.cross(x, terms.blocks[0]),
    }
    table("cross-attention", forms, device, args.repeat, count=True)
    if not args.forward:
        return

    given = dict(x=torch.randn(1, config.in_channels, T, H, W, device=device), context=context)
    given["t"] = torch.full((1,), 0.399, device=device)

    def twice():
        def cross(attn, gate):
            return lambda x, term: literal(attn, x, text, shown, gate)

        for block, gate in zip(model.blocks, prompt.gates, strict=True):
            block.cross = cross(block.cross_attn, gate)
        out = model(**given, prompt=no_keys)
        for block in model.blocks:
            del block.cross
        return out

    no_keys = type(terms)([Term(None)] * config.depth, None, None)
    forms = {
        "literal": twice,
        "one pass": lambda: model(**given, prompt=prompt),
        "prepared": lambda: model(**given, prompt=terms),
    }
    table("forward", forms, device, args.repeat, count=False)

    def step():
        with torch.enable_grad():
            prompt.residual.requires_grad_().grad = None
            model(**given, prompt=prompt).square().mean().backward()
        return prompt.residual.grad

    for checkpointing in (False, True):
        model.checkpointing = checkpointing
        title = "training step" + ", checkpointing" * checkpointing
        table(title, {"one pass": step}, device, args.repeat, count=False)


if __name__ == "__main__":
    main()
