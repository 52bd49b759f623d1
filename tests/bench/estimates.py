"""What runs need of memory as need.py estimates it, beside the peaks that they reach.

    python -m tests.bench.estimates                     # about 15 minutes, tests/bench/estimates.md
    python -m tests.bench.estimates --only flux-photo   # one row, printed
    python -m tests.bench.estimates --out FILE

Random models of one to two gigabytes on a CPU, of official widths or half of them. Each row is a
process of its own. It estimates from headers, then loads the same folder and runs; the peak is
VmHWM, which begins anew after the imports, less what was resident then. Both are told without the
interpreter and PyTorch.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

GOAL = 0.15
FLUX = {"in_channels": 64, "hidden_size": 1536, "num_heads": 12, "depth": 2, "depth_single": 4}
FLUX |= {"context_dim": 2048, "pooled_dim": 256, "guidance": True}
FLUX_VAE = {"ch": 64}
WAN = {"hidden_size": 1536, "num_heads": 12, "depth": 6, "ffn_dim": 8960, "context_dim": 2048}
WAN_VAE = {"dim": 48}
T5 = {"vocab_size": 96, "d_model": 2048, "d_kv": 64, "num_heads": 32, "d_ff": 5120}
T5 |= {"num_layers": 12}
ROWS = {"flux": 128, "wan": 64}  # of text

CASES: dict[str, dict[str, Any]] = {
    "flux-photo": {"size": (512, 512), "what": "FLUX, a picture of 512x512"},
    "flux-bfloat16": {
        "size": (512, 512),
        "dtype": "bfloat16",
        "what": "FLUX in bfloat16, a picture of 512x512",
    },
    "flux-tiles": {
        "size": (768, 1024),
        "side": 384,
        "tile": 256,
        "together": 2,
        "what": "FLUX, 1024x768 in windows of 384, two at once, tiles of 256",
    },
    "flux-two": {"size": (256, 384), "prompts": 2, "what": "FLUX, two prompts, 384x256"},
    "flux-train": {"size": (256, 256), "batch": 2, "what": "FLUX, a step on two of 256x256"},
    "flux-train-4": {"size": (192, 192), "batch": 4, "what": "FLUX, a step on four of 192x192"},
    "flux-text": {"text": True, "size": (64, 64), "what": "FLUX with its text encoder, 64x64"},
    "wan-photo": {"size": (512, 512), "what": "WAN, a photo of 512x512"},
    "wan-clip": {"size": (256, 256), "frames": 17, "what": "WAN, 17 frames of 256x256"},
    "wan-train": {
        "size": (128, 128),
        "frames": 9,
        "batch": 2,
        "what": "WAN, a step on two of 128x128x9",
    },
}


def status(field: str) -> float:
    """A line of /proc/self/status in MB."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) / 1e3
    raise OSError(f"/proc/self/status has no {field}: this script needs Linux")


def write(folder: Path, name: str, text: bool) -> dict[str, Any]:
    """A random backbone in a folder; how load_backbone is told to take it."""
    from dataclasses import asdict

    import torch
    from safetensors.torch import save_file

    from tests.oracles import folders as make
    from tinybridge import flux, flux_vae, wan, wan_vae
    from tinybridge.checkpoints.conditioning_files import write_conditioning
    from tinybridge.text.encoders import ClipConfig, ClipText, T5Config, T5Encoder

    torch.manual_seed(0)

    def save(build: Callable[[Any], torch.nn.Module], config: Any, file: Path) -> None:
        with torch.device("meta"):
            shapes = {key: value.shape for key, value in build(config).state_dict().items()}
        state = {key: 0.02 * torch.randn(shape) for key, shape in shapes.items()}
        file.parent.mkdir(parents=True, exist_ok=True)
        save_file(state, file, {"config": json.dumps(asdict(config))})

    if name == "wan":
        save(wan.Wan, wan.WanConfig(**WAN), folder / "wan2.1_t2v_random.safetensors")
        config = wan_vae.AutoEncoderConfig(**WAN_VAE)
        save(wan_vae.AutoEncoder, config, folder / "wan_2.1_vae.safetensors")
    else:
        save(flux.Flux, flux.FluxConfig(**FLUX), folder / "flux1-random.safetensors")
        config = flux_vae.AutoEncoderConfig(**FLUX_VAE)
        save(flux_vae.AutoEncoder, config, folder / "ae.safetensors")
    if text:
        make.write_tokenizers(folder)
        sides = {"hidden_size": 256, "intermediate_size": 1024, "num_heads": 4}
        told = ClipConfig(**sides, vocab_size=516, num_layers=2)
        save(ClipText, told, folder / "text_encoder/model.safetensors")
        text_config = json.dumps(make.config_json("clip", told))
        (folder / "text_encoder/config.json").write_text(text_config)
        told = T5Config(**T5)
        save(T5Encoder, told, folder / "text_encoder_2/model.safetensors")
        text_config = json.dumps(make.config_json("t5", told))
        (folder / "text_encoder_2/config.json").write_text(text_config)
        return {}
    width = (WAN if name == "wan" else FLUX)["context_dim"]
    context = torch.zeros(1, ROWS[name], width)
    context[:, 0] = 1.0
    pooled = None if name == "wan" else torch.ones(1, FLUX["pooled_dim"])
    write_conditioning(folder / "null.safetensors", name, "", context, pooled, [])
    return {"length": ROWS[name], "conditioning": folder / "null.safetensors"}


def measure(case: str) -> dict[str, float]:
    """MB of estimate and peak."""
    import torch

    import weights
    from tinybridge import restoration
    from tinybridge.prompt import Prompt
    from tinybridge.training import loop, need
    from tinybridge.training.pairs import Pairs
    from tinybridge.windows import AtOnce

    told = CASES[case]
    name, (H, W), frames = case.split("-")[0], told["size"], told.get("frames", 1)
    dtype = getattr(torch, told.get("dtype", "float32"))
    with tempfile.TemporaryDirectory() as place:
        os.environ["XDG_CACHE_HOME"] = str(Path(place) / "cache")
        how = write(Path(place), name, bool(told.get("text")))
        headers = weights.load_backbone(name, place, "meta", dtype, **how)
        sizes = headers.length, headers.width, headers.blocks
        prompts = [Prompt.init(*sizes, seed) for seed in range(told.get("prompts", 1))]
        headers.size, headers.tile = told.get("side"), told.get("tile")
        batch, shape = told.get("batch"), (frames, H, W) if name == "wan" else (H, W)
        text = 0
        if told.get("text"):
            text = need.to_encode_text(weights.text_encoders(name, place, **how), 512)
        if batch:
            settings = loop.Settings(batch_size=batch)
            found = need.to_learn(headers, prompts[0].to("meta"), shape, batch, 1, text)
        else:
            together = told.get("together", 1)
            found = need.to_restore(headers, prompts, (H, W), frames, together, text)
        prompts = [Prompt.init(*sizes, seed) for seed in range(len(prompts))]
        pixels = torch.rand(1, 3, *shape)

        Path("/proc/self/clear_refs").write_text("5")  # VmHWM begins anew
        before = status("VmRSS")
        backbone = weights.load_backbone(name, place, "cpu", dtype, **how)
        backbone.size, backbone.tile = told.get("side"), told.get("tile")
        if batch:
            with torch.no_grad():
                y = backbone.encode(pixels)
            pairs = Pairs(y, y, pixels, pixels, (pixels, pixels))
            loop.gradients(backbone, prompts[0], pairs, settings, 0)
        else:
            options = {"steps": 2, "batch_size": AtOnce(told.get("together", 1))}
            if name == "wan":  # as sample.py does, photos too
                for _ in restoration.restore_stream(backbone, prompts, pixels[0], **options):
                    pass
            else:
                restoration.restore(backbone, prompts, pixels, **options)
        peak = status("VmHWM") - before
    return {"estimate": found.total / 1e6, "peak": peak, "said": str(found)}


def row(case: str, found: dict[str, Any]) -> str:
    off = found["estimate"] / found["peak"] - 1
    return f"| {CASES[case]['what']} | {found['estimate']:.0f} | {found['peak']:.0f} | {off:+.0%} |"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--only", choices=tuple(CASES), nargs="+", help="these rows, not written")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".md"))
    parser.add_argument("--inside", choices=tuple(CASES), help=argparse.SUPPRESS)
    flags = parser.parse_args()
    if flags.inside:
        print(json.dumps(measure(flags.inside)))
        return 0
    lines = ["| run | estimate, MB | peak, MB | off |", "|---|---|---|---|"]
    apart = []
    for case in flags.only or CASES:
        command = [sys.executable, "-m", "tests.bench.estimates", "--inside", case]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            print(done.stderr, file=sys.stderr)
            return 1
        found = json.loads(done.stdout.splitlines()[-1])
        lines.append(row(case, found))
        apart.append(abs(found["estimate"] / found["peak"] - 1))
        print(lines[-1], found["said"], flush=True)
    worst = f"Furthest off: {max(apart):.0%}; the goal is {GOAL:.0%}."
    print(worst)
    if not flags.only:
        flags.out.write_text("\n".join([*lines, "", worst, ""]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
