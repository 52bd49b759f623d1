"""What float8 costs and saves: velocities, gradients, restored scenes, memory.

    python -m tests.bench.float8              # tests/bench/float8.md; some minutes of a core
    python -m tests.bench.float8 --steps 2 --width 256 --out /dev/null       # a try

The bundled tiny models, and blocks of official shape with random weights, stored in bfloat16: one
joint and one single block of FLUX.1-dev, two blocks of WAN 2.1 1.3B. Errors are root mean squares
relative to float32 with the same weights. Memory is that of the blocks' matrices, and the rise of
the peak resident set from before loading to after a prepared forward, each in its own process.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

import weights
from tinybridge.backbone import Backbone
from tinybridge.checkpoints.fetched import Fetched, linears
from tinybridge.checkpoints.load import build, open_model
from tinybridge.flux import Flux, FluxConfig
from tinybridge.metrics import measures
from tinybridge.prompt import Prompt
from tinybridge.restoration import restore
from tinybridge.training import loop
from tinybridge.training.pairs import Pairs, drawn_pairs
from tinybridge.training.settings import Settings
from tinybridge.wan import Wan, WanConfig

FLOAT32, BFLOAT16 = torch.float32, torch.bfloat16
FORMS: dict[str, dict[str, Any]] = {
    "float32": {"dtype": FLOAT32},
    "bfloat16": {"dtype": BFLOAT16},
    "float8 in float32": {"dtype": FLOAT32, "float8": True},
    "float8 in bfloat16": {"dtype": BFLOAT16, "float8": True},
}
TITLES = {"flux": "FLUX.1-dev", "wan": "WAN 1.3B"}
HEADS = [
    [
        "| model | form | velocity | gradient of the residual | of the gates |",
        "|---|---|---|---|---|",
    ],
    ["| blocks | form | matrices, GiB | peak above, GiB |", "|---|---|---|---|"],
    [
        "| model | form | degraded | prompt learned in float32 | learned in float8 |",
        "|---|---|---|---|---|",
    ],
]
DEGRADATION = "haze"
SCENES = {"flux": (64, 16), "wan": (16, 4)}  # to learn from, to judge by
LEARNING = {"flux": (40, 0.15), "wan": (10, 0.4)}  # steps of 8, and their rate


def relative(found: Tensor, wanted: Tensor) -> float:
    """Root mean square of the difference over that of what is wanted."""
    return ((found.double() - wanted.double()).norm() / wanted.double().norm()).item()


# ---- blocks of official shape --------------------------------------------------------------------


def write(folder: Path, name: str, width: int | None) -> Path:
    """A file of random bfloat16, of official or of this width: linears keep the size of x."""
    few = {"depth": 1, "depth_single": 1} if name == "flux" else {"depth": 2}
    if width:
        few |= {"hidden_size": width, "num_heads": width // 128}
    with torch.device("meta"):
        model = Flux(FluxConfig(**few)) if name == "flux" else Wan(WanConfig(**few))
    generator, state = torch.Generator().manual_seed(0), {}
    for key, meta in model.state_dict().items():
        centre = float(key.endswith(("scale", "norm_q.weight", "norm_k.weight", "norm3.weight")))
        size = meta[0].numel() ** -0.5 if meta.dim() > 1 and "modulation" not in key else 0.1
        state[key] = (centre + size * torch.randn(meta.shape, generator=generator)).to(BFLOAT16)
    save_file(state, folder / f"{name}.safetensors")
    return folder / f"{name}.safetensors"


def given(model: nn.Module, name: str) -> dict[str, Any]:
    """A small latent, 32 rows of text, and what else the model is told."""
    g, config = torch.Generator().manual_seed(1), model.config
    told = {
        "t": torch.tensor([0.399]),
        "context": torch.randn(1, 32, config.context_dim, generator=g),
    }
    if name == "wan":
        return told | {"x": torch.randn(1, config.in_channels, 2, 16, 16, generator=g)}
    told["x"] = torch.randn(1, config.in_channels // 4, 16, 16, generator=g)
    told["pooled"] = torch.randn(1, config.pooled_dim, generator=g)
    return told | {"guidance": torch.ones(1)}


def outcome(model: nn.Module, told: dict[str, Any]) -> dict[str, Tensor]:
    """The velocity with a prompt, and the gradients of its sum of squares to that prompt."""
    g, D = torch.Generator().manual_seed(2), model.config.hidden_size
    prompt = Prompt(torch.randn(32, D, generator=g), torch.randn(len(model.blocks), generator=g))
    velocity = model(**told, prompt=prompt)
    velocity.float().square().mean().backward()
    grads = {"residual": prompt.residual.grad, "gates": prompt.gates.grad}
    return {"velocity": velocity.detach(), **grads}


def weigh(model: nn.Module) -> float:
    """GiB of the matrices of a model's blocks and of their factors."""
    size = 0
    for block in model.blocks:
        for part in linears(block).values():
            weight = part.weight
            stored = weight.stored if isinstance(weight, Fetched) else weight
            size += stored.nbytes
            if isinstance(weight, Fetched) and weight.scale is not None:
                size += weight.scale.nbytes
    return size / 2**30


def peak() -> float:
    """GiB that this process held at most."""
    for row in Path("/proc/self/status").read_text().splitlines():
        if row.startswith("VmHWM"):
            return int(row.split()[1]) / 2**20
    raise OSError("/proc/self/status has no VmHWM: this script needs Linux")


def measure(file: Path, form: str) -> dict[str, float]:
    """GiB of a form's matrices, and of the peak above what was there, of a prepared forward."""
    name, how = file.stem, FORMS
    before = peak()
    model = build(open_model(name, file), "cpu", **how[form])
    told = given(model, name)
    with torch.no_grad():
        if name == "flux":
            terms = model.prepare([], told["t"], told["pooled"], told["guidance"])
        else:
            terms = model.prepare([], told["context"], told["t"])
        model(**told, prompt=terms)
    return {"matrices": weigh(model), "peak": peak() - before}


# ---- the tiny models -----------------------------------------------------------------------------


def tiny(name: str, form: str) -> Backbone:
    """The bundled tiny backbone in a form."""
    how = dict(FORMS[form])
    bits = "float8" if how.pop("float8", False) else None
    return weights.load_backbone(name, weights_dtype=bits, **how)


def learned(name: str, pairs: Pairs, form: str, steps: int | None) -> Prompt:
    """A prompt that was learned through a form."""
    usual, lr = LEARNING[name]
    n = steps or usual
    settings, backbone = Settings(steps=n, every=n, batch_size=8, lr=lr), tiny(name, form)
    prompt = loop.init_prompt(backbone, settings)
    loop.learn(backbone, prompt, pairs, settings, quiet=True)
    return prompt


def restored(name: str, steps: int | None) -> list[str]:
    """Rows of a table: forms, and the PSNR of what each of two prompts restores through them."""
    pairs = drawn_pairs(tiny(name, "float32"), DEGRADATION, counts=SCENES[name], quiet=True)
    forms = "float32", "float8 in float32"
    prompts = [learned(name, pairs, form, steps) for form in forms]
    degraded = measures(pairs.degraded, pairs.clean)["psnr"]
    rows = []
    for form in FORMS:
        backbone, cells = tiny(name, form), []
        for prompt in prompts:
            pixels = restore(backbone, [prompt], pairs.degraded, steps=4)
            cells.append(f"{measures(pixels, pairs.clean)['psnr']:.3f}")
        rows.append(f"| tiny {name} | {form} | {degraded:.3f} | {' | '.join(cells)} |")
    return rows


def tiny_outcome(name: str, form: str) -> dict[str, Tensor]:
    """As `outcome`, of the tiny model and its own null text."""
    backbone = tiny(name, form)
    g, C = torch.Generator().manual_seed(1), backbone.vae.config.z_channels
    size = (3, 16, 16) if backbone.video else (16, 16)
    x = torch.randn(2, C, *size, generator=g)
    prompt = Prompt.init(backbone.length, backbone.width, backbone.blocks, seed=0, std=0.5)
    velocity = backbone.velocity(x, torch.tensor([0.1, 0.4]), prompt)
    velocity.square().mean().backward()
    grads = {"residual": prompt.residual.grad, "gates": prompt.gates.grad}
    return {"velocity": velocity.detach(), **grads}


# ---- the tables ----------------------------------------------------------------------------------


def errors(title: str, forms: Sequence[str], run: Callable[[str], dict[str, Tensor]]) -> list[str]:
    """Rows of a table: forms beside float32. run: the outcome of a form."""
    wanted, rows = run("float32"), []
    for form in forms:
        found = run(form)
        cells = [f"{100 * relative(found[key], wanted[key]):.2f} %" for key in wanted]
        rows.append(f"| {title} | {form} | {' | '.join(cells)} |")
    return rows


def of_file(file: Path, form: str) -> dict[str, Tensor]:
    model = build(open_model(file.stem, file), "cpu", **FORMS[form])
    return outcome(model, given(model, file.stem))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, help="of learning a prompt, instead of LEARNING's")
    parser.add_argument("--width", type=int, help="instead of the official ones")
    parser.add_argument("--folder", help="for the temporary files, 1.5 GB")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".md"))
    parser.add_argument("--measure", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        print(json.dumps(measure(Path(args.measure[0]), args.measure[1])))
        return
    steps = " and ".join(str(usual) for usual, _ in LEARNING.values())
    about = (
        f"{platform.machine()}, CPU, torch {torch.__version__}, load average "
        f"{os.getloadavg()[0]:.0f}; seeds 0, 1, 2; prompts: {DEGRADATION}, "
        f"{args.steps or steps} steps of 8; 4 sampler steps"
    )
    sections = [
        ["# Weights in float8", "", about],
        ["Relative error to float32 (root mean squares):", "", *HEADS[0]],
        ["Memory on the CPU, where a mapped file counts once its pages were read:", "", *HEADS[1]],
        ["PSNR of restored held-out scenes, dB:", "", *HEADS[2]],
    ]

    def add(section: int, rows: list[str]) -> None:
        """Writes what there is, for a run may be stopped, and says so until it is done."""
        sections[section] += rows
        parts = ["\n".join(rows) for rows in sections]
        if len(sections[3]) < len(HEADS[2]) + 2 + len(FORMS) * len(TITLES):
            parts.append("The run was stopped before it was done: the other rows are not measured.")
        args.out.write_text("\n\n".join(parts) + "\n")
        print(*rows, sep="\n", flush=True)

    for name in reversed(TITLES):
        title = f"tiny {name}, width {tiny(name, 'float32').width}"
        add(1, errors(title, list(FORMS)[1:], partial(tiny_outcome, name)))
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        for name, title in reversed(TITLES.items()):
            file = write(Path(folder), name, args.width)
            forms = "bfloat16", "float8 in bfloat16"
            add(1, errors(f"blocks of {title}", forms, partial(of_file, file)))
            for form in forms:
                command = [sys.executable, "-m", "tests.bench.float8", "--measure", str(file), form]
                row = json.loads(subprocess.check_output(command, text=True))
                add(2, [f"| {title} | {form} | {row['matrices']:.3f} | {row['peak']:.2f} |"])
    for name in TITLES:
        add(3, restored(name, args.steps))


if __name__ == "__main__":
    main()
