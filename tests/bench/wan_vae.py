"""One frame through WAN's autoencoder of official size: 3-D convolutions, ours, and diffusers'.

    python -m tests.bench.wan_vae > tests/bench/wan_vae.md        # 832x480, several minutes
    python -m tests.bench.wan_vae --size 416x240 --rounds 3

Random weights in float32, on the CPU. Every figure comes from its own process: the rise of the
peak resident set over what the model, the libraries and the input take, and the processor time.
The forms run in turns, and a ratio is of two that ran one after the other: its median is shown.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from unittest import mock

import torch
from torch import Tensor, nn

from tests.oracles.wan_vae import diffusers_twin, normal, raw
from tinybridge.parts.causal import over_time
from tinybridge.wan_vae import AutoEncoder, AutoEncoderConfig

FORMS = ("3-D", "ours", "diffusers")


def resident(line: str) -> float:
    """VmRSS, what this process holds, or VmHWM, the most that it held, in MiB."""
    for row in Path("/proc/self/status").read_text().splitlines():
        if row.startswith(line):
            return int(row.split()[1]) / 1024
    raise ValueError(f"/proc/self/status has no {line}")


def literal(layer: nn.Conv3d, x: Tensor, cache: dict) -> Tensor:
    """The causal convolution of a first frame as one over time; what later ones need is kept."""
    x = torch.cat((x.new_zeros(*x.shape[:2], 2, *x.shape[3:]), x), 2)  # [1, C, 3, H, W]
    cache[layer] = x[:, :, -2:].clone()
    return over_time(layer, x)


def call(model: nn.Module, form: str, half: str, x: Tensor) -> Tensor:
    """A latent or pixels of x by one of FORMS."""
    if form == "ours":
        return getattr(model, half)(x)
    if form == "diffusers":
        if half == "encode":
            return normal(model, model.vae.encode(x).latent_dist.mode())
        return model.vae.decode(raw(model, x)).sample
    with mock.patch("tinybridge.wan_vae.causal", literal):
        if half == "encode":
            moments = model.conv1(model.encoder(x, {}))
            return normal(model, moments.chunk(2, 1)[0])
        return model.decoder(model.conv2(raw(model, x)), {})


@torch.no_grad()
def measure(form: str, half: str, width: int, height: int, file: str) -> dict[str, float]:
    """MiB and seconds of one encode or decode, whose result is saved to `file`."""
    torch.manual_seed(0)
    model = AutoEncoder(AutoEncoderConfig())
    if form == "diffusers":
        twin = nn.Module()
        twin.vae, twin.config = diffusers_twin(model), model.config
        model = twin
    shape = (1, 3, 1, height, width) if half == "encode" else (1, 16, 1, height // 8, width // 8)
    x = torch.rand(shape, generator=torch.Generator().manual_seed(1)) * 2 - 1
    small = 64 if half == "encode" else 8  # a picture of 64 x 64 either way
    call(model, form, half, x[..., :small, :small])
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before, start = resident("VmRSS"), time.process_time()
    y = call(model, form, half, x)
    found = {"MiB": resident("VmHWM") - before, "seconds": time.process_time() - start}
    torch.save(y.clamp(-1, 1) if half == "decode" else y, file)  # diffusers clamps
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", default="832x480", help="width x height of the frame")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        print(json.dumps(measure(*json.loads(args.one))))
        return
    size = [int(side) for side in args.size.split("x")]
    print("# One frame through WAN's autoencoder, official size\n")
    print(f"{args.size}, rounds: {args.rounds}, {platform.machine()}, ", end="")
    print(f"threads: {os.environ.get('OMP_NUM_THREADS', 'all')}, torch {torch.__version__}\n")
    print("| | form | MiB above the weights | s | memory to 3-D | time to 3-D | difference |")
    print("|---|---|---|---|---|---|---|", flush=True)
    for half in ("encode", "decode"):
        rounds: list[dict[str, dict[str, float]]] = []
        results: dict[str, Tensor] = {}
        for _ in range(args.rounds):
            rounds.append({})
            for form in FORMS:
                with tempfile.NamedTemporaryFile() as file:
                    case = json.dumps((form, half, *size, file.name))
                    command = [sys.executable, "-m", "tests.bench.wan_vae", "--one", case]
                    rounds[-1][form] = json.loads(subprocess.check_output(command))
                    results[form] = torch.load(file.name, weights_only=True)
        for form in FORMS:
            row = []
            for key in ("MiB", "seconds"):
                row.append(statistics.median(found[form][key] for found in rounds))
            for key in ("MiB", "seconds"):
                row.append(statistics.median(f[form][key] / f["3-D"][key] for f in rounds))
            want = results["3-D"]
            apart = ((results[form] - want).abs().max() / want.abs().max()).item()
            figures = "{:.0f} | {:.1f} | {:.2f} | {:.2f}".format(*row)
            print(f"| {half} | {form} | {figures} | {apart:.1e} |", flush=True)
    load = " / ".join(f"{n:.0f}" for n in os.getloadavg())
    print(f"\nProcessor time. Load average at the end: {load}, of {os.cpu_count()} processors.")


if __name__ == "__main__":
    main()
