"""Time and memory of loading a FLUX transformer, beside diffusers on the same tensors.

    python -m tests.bench.loading  # 3.9 GB in two layouts, tests/bench/loading.md
    python -m tests.bench.loading --width 256 --depth 1 --out /dev/null     # a try, in seconds
    python -m tests.bench.loading --dtype float32 --depth 2 --out /dev/null   # every value is cast

Official widths and names, fewer blocks, random bfloat16. Every figure comes from its own process
on the CPU; a first load finds the file out of the page cache, a second one in it. A view of a
mapped file, which both loaders give where they can, costs nothing until it is read: every value is
then read once, and time and peak are told for both moments.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

LOADERS = (  # who, which files: a name under the written folder
    ("tinybridge", "flux1-random.safetensors"),
    ("tinybridge", "transformer"),
    ("diffusers", "transformer"),
)


def status(field: str) -> float:
    """A line of /proc/self/status in GB. VmHWM, the peak, is this program's own: getrusage's
    would begin with the peak of the process that started it."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024 / 1e9
    raise OSError(f"/proc/self/status has no {field}: this script needs Linux")


def write(folder: Path, width: int, depth: int) -> None:
    """The same random tensors as the vendor's file and as diffusers' folder."""
    import torch
    from safetensors.torch import save_file

    from tests.oracles import folders as make
    from tinybridge.checkpoints.flux import FLUX_TABLE
    from tinybridge.flux import Flux, FluxConfig

    config = FluxConfig(
        hidden_size=width, num_heads=width // 128, depth=depth, depth_single=2 * depth
    )
    with torch.device("meta"):
        shapes = {name: tensor.shape for name, tensor in Flux(config).state_dict().items()}
    torch.manual_seed(0)
    state = {name: torch.randn(shape, dtype=torch.bfloat16) for name, shape in shapes.items()}
    save_file(state, folder / LOADERS[0][1], {"format": "pt"})
    other = make.to_other(state, FLUX_TABLE, width)
    make.write_shards(folder / "transformer", "diffusion_pytorch_model", other, 1)
    text = json.dumps(make.config_json("flux", config))
    (folder / "transformer" / "config.json").write_text(text)


def measure(who: str, path: str, dtype_name: str) -> dict[str, Any]:
    """Load, then read every value once: wall and processor seconds and peak GB after each."""
    import torch

    dtype = getattr(torch, dtype_name)
    # Imports are no part of loading, and each process pays only for its own.
    if who == "diffusers":
        from diffusers import FluxTransformer2DModel

        def load() -> torch.nn.Module:
            return FluxTransformer2DModel.from_pretrained(path, torch_dtype=dtype)
    else:
        import weights

        def load() -> torch.nn.Module:
            return weights.load_flux(path, dtype=dtype)

    found: dict[str, Any] = {"imports": status("VmHWM")}
    wall, cpu = time.perf_counter(), time.process_time()
    state = load().state_dict()
    for moment in ("load", "read"):
        if moment == "read":
            # 64 bits at a time, wrapping around: the same for every order of the same tensors.
            sums = [tensor.flatten().view(torch.int64).sum() for tensor in state.values()]
            found["sum"] = int(torch.stack(sums).sum())
        found[moment] = (time.perf_counter() - wall, time.process_time() - cpu, status("VmHWM"))
    found["GB"] = sum(tensor.nbytes for tensor in state.values()) / 1e9
    found["dtypes"] = sorted({str(tensor.dtype) for tensor in state.values()})
    return found


def forget(path: Path) -> None:
    """Drop the pages of a file, or of a folder's files, from the page cache."""
    for file in [path] if path.is_file() else path.iterdir():
        with file.open("rb") as stream:
            os.fsync(stream.fileno())
            os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def table(found: list[dict[str, Any]]) -> str:
    """Rows of `measure` as markdown, with the goals of the loader's issue."""
    lines = [
        "| loader | files | page cache | load: s | CPU s | peak GB "
        "| and every value read: s | CPU s | peak GB |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in found:
        figures = [f"{value:.2f}" for moment in ("load", "read") for value in row[moment]]
        lines.append(f"| {row['who']} | {row['files']} | {row['cache']} | {' | '.join(figures)} |")
    lines += ["", f"Model: {found[0]['GB']:.3f} GB. Goals, once every value is read:", ""]
    diffusers = {row["cache"]: row for row in found if row["who"] == "diffusers"}
    for row in found:
        if row["who"] == "diffusers":
            continue
        ratio = row["read"][0] / diffusers[row["cache"]]["read"][0]
        over = row["read"][2] - row["GB"]
        lines.append(
            f"- {row['files']}, {row['cache']}: {ratio:.2f} of diffusers' time "
            f"({'within' if ratio <= 0.6 else 'NOT within'} 0.6); peak is the model's size + "
            f"{over:.2f} GB, {row['imports']:.2f} of them imports "
            f"({'within' if over <= 1 else 'NOT within'} 1 GB)"
        )
    return "\n".join(lines) + "\n"


def machine() -> str:
    """Processor, cores, memory, load and versions, in one line."""
    info = Path("/proc/cpuinfo").read_text().splitlines()
    name = next((line.split(": ")[1] for line in info if "model name" in line), platform.machine())
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    # diffusers loads in another way, and warns, where this package is not installed.
    has = "with" if find_spec("accelerate") else "without"
    return (
        f"{name}, {os.cpu_count()} cores, {total:.0f} GB, load average {os.getloadavg()[0]:.1f} "
        f"before the run; torch {version('torch')}, "
        f"diffusers {version('diffusers')} {has} accelerate."
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--width", type=int, default=3072, help="hidden size, a multiple of 128")
    parser.add_argument("--depth", type=int, default=3, help="joint blocks; twice as many single")
    parser.add_argument(
        "--dtype", default="bfloat16", help="what to load as; the files' is bfloat16"
    )
    parser.add_argument("--folder", help="where the temporary files go; needs twice their size")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "loading.md")
    parser.add_argument("--step", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.step:
        job, path = args.step
        if job == "write":
            write(Path(path), args.width, args.depth)
        else:
            print(json.dumps(measure(job, path, args.dtype)))
        return

    def run(*step: str) -> str:
        same = ["--width", str(args.width), "--depth", str(args.depth), "--dtype", args.dtype]
        command = [sys.executable, "-m", "tests.bench.loading", *same, "--step", *step]
        return subprocess.check_output(command, text=True)

    found, about = [], machine()  # before the run, whose own load would count
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        run("write", folder)
        for who, files in LOADERS:
            forget(Path(folder, files))
            for cache in ("cold", "warm"):
                row = json.loads(run(who, str(Path(folder, files))).splitlines()[-1])
                found.append(row | {"who": who, "files": files, "cache": cache})
                print(found[-1], flush=True)
    if len({(row["sum"], *row["dtypes"]) for row in found}) > 1:
        raise SystemExit("error: the loaders gave different tensors: the figures mean nothing")
    text = f"# Loading a FLUX transformer as {args.dtype}\n\n{about}\n\n{table(found)}"
    args.out.write_text(text)
    print(text)


if __name__ == "__main__":
    main()
