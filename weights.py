"""Official checkpoints into our models, either published layout, every tensor accounted for.

    python weights.py inspect PATH [--check-values]

FLUX.1-dev and FLUX.1-schnell: the vendor's files (flux1-dev.safetensors, ae.safetensors, text
encoders beside them) or the diffusers folder. Names are tables in tinybridge/keys.py, sizes in
tinybridge/sizes.py, places in tinybridge/places.py, files and shards in tinybridge/checkpoint.py,
accounting in tinybridge/fill.py.
"""

import argparse
import json
import math
import sys
from collections import Counter
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tinybridge import keys, sizes
from tinybridge.backbone import Backbone
from tinybridge.cache import cached
from tinybridge.checkpoint import Checkpoint, open_checkpoint
from tinybridge.fill import fill
from tinybridge.flux import Flux, FluxConfig
from tinybridge.flux_vae import AutoEncoder, AutoEncoderConfig
from tinybridge.places import PLACES, advice, backbone_parts, find, read_json
from tinybridge.text import ClipConfig, ClipText, T5Config, T5Encoder
from tinybridge.tokens import ClipTokens, T5Tokens

TINY = Path(__file__).parent / "tinybridge" / "tiny"

MODELS = {  # kind: model, config, table of the other layout, what its shapes tell
    "flux": (Flux, FluxConfig, keys.FLUX, sizes.flux),
    "flux_vae": (AutoEncoder, AutoEncoderConfig, keys.FLUX_VAE, sizes.flux_vae),
    "clip": (ClipText, ClipConfig, keys.CLIP, sizes.clip),
    "t5": (T5Encoder, T5Config, keys.T5, sizes.t5),
}

Where = str | Path
Device = str | torch.device
Dtype = torch.dtype | None

# ------------------------------------------------------------------------------------ find, read


def open_model(kind: str, path: Where) -> tuple[Checkpoint, keys.Table | None]:
    """The tensors of a model, headers only, and the table of its layout (None: our own names).

    path: its file, its folder, or the backbone folder that holds it. ValueError that says what
    was found when the file is another model's.
    """
    path = Path(path)
    file = find(kind, path) or path
    checkpoint = open_checkpoint(file, keys.PREFIX, keys.IGNORED[kind])
    table = MODELS[kind][2]
    found, looks_like = keys.identify(checkpoint.entries)
    if found != kind:
        raise ValueError(f"{file}: expected a {PLACES[kind][0]}, found {looks_like}")
    if checkpoint.entries.keys() >= set(keys.TWINS):
        if not torch.equal(*(checkpoint.read(name, checkpoint.dtype()) for name in keys.TWINS)):
            raise ValueError(f"{file}: {' and '.join(keys.TWINS)} differ, expected one embedding")
        del checkpoint.entries[keys.TWINS[1]]
    first = table[0][0] + "."
    return checkpoint, None if any(n.startswith(first) for n in checkpoint.entries) else table


def configure(kind: str, checkpoint: Checkpoint, table: keys.Table | None) -> Any:
    """The model's config: what shapes tell, over it config.json, over it the file's metadata."""
    _, config, _, infer = MODELS[kind]
    shapes = {name: entry.shape for name, entry in checkpoint.entries.items()}

    def source(name: str) -> str:
        return keys.plan([name], table)[name][0][0]

    def shape(name: str) -> tuple[int, ...]:
        if source(name) not in shapes:
            raise ValueError(f"tensor {source(name)} is missing, without it the size is unknown")
        return shapes[source(name)]

    folder = checkpoint.path if checkpoint.path.is_dir() else checkpoint.path.parent
    try:
        told = infer(shape, lambda name: source(name) in shapes)
        told |= sizes.published(kind, read_json(folder / "config.json"))
        told |= sizes.published(kind, json.loads(checkpoint.metadata.get("config", "{}")))
        known = {field.name for field in fields(config)}
        return config(**{name: value for name, value in told.items() if name in known})
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"{checkpoint.path}: not a readable {PLACES[kind][0]}: {error}") from None


def lacking(path: Path, parts: dict[str, Path | None]) -> str:
    """What a backbone lacks and the command that downloads it; "" when it is whole."""
    missing = [part for part, place in parts.items() if place is None]
    if not missing:
        return ""
    flux = parts["flux"]
    dev = flux is None or configure("flux", *open_model("flux", flux)).guidance
    return advice(path, missing, "dev" if dev else "schnell")


# ------------------------------------------------------------------------------------ load


def load(kind: str, path: Where, config: Any, device: Device, dtype: Dtype) -> Any:
    checkpoint, table = open_model(kind, path)
    with torch.device("meta"):
        model = MODELS[kind][0](config or configure(kind, checkpoint, table))
    if dtype is None:
        dtype = checkpoint.dtype()
        if kind == "t5" and dtype == torch.float16:
            dtype = torch.float32  # T5's residual stream leaves the range of float16
    fill(model, checkpoint, table, device, dtype)
    return model


def load_flux(
    path: Where, config: FluxConfig | None = None, device: Device = "cpu", dtype: Dtype = None
) -> Flux:
    """FLUX.1-dev or -schnell (told by the guidance embedder) from a file or folder, either layout.

    dtype None: as stored; float8 becomes bfloat16. Weights are frozen, in eval mode, and on the
    CPU unchanged ones stay views of the mapped file. OSError and ValueError name the file and
    what is wrong with it.
    """
    return load("flux", path, config, device, dtype)


def load_flux_vae(
    path: Where,
    config: AutoEncoderConfig | None = None,
    device: Device = "cpu",
    dtype: Dtype = None,
) -> AutoEncoder:
    """The autoencoder of FLUX.1, as `load_flux`."""
    return load("flux_vae", path, config, device, dtype)


def load_clip(
    path: Where, config: ClipConfig | None = None, device: Device = "cpu", dtype: Dtype = None
) -> ClipText:
    """The CLIP-L text model, with or without the prefix text_model., as `load_flux`."""
    return load("clip", path, config, device, dtype)


def load_t5(
    path: Where, config: T5Config | None = None, device: Device = "cpu", dtype: Dtype = None
) -> T5Encoder:
    """The T5 v1.1 encoder, as `load_flux`; a float16 file becomes float32."""
    return load("t5", path, config, device, dtype)


def load_backbone(
    name: str,
    path: Where | None = None,
    device: Device = "cpu",
    dtype: Dtype = None,
    text: str = "",
) -> Backbone:
    """A whole backbone from its folder; "flux" is the only name yet. None: the bundled tiny one.

    path may also be the transformer's file, with the other parts beside it. dtype is the model's,
    None: float32 on the CPU, else bfloat16; the autoencoder is small and gets at least float32.
    text: what the model is told, "" in the paper; the encoders run once for it, see `encode`.
    """
    if name != "flux":
        raise ValueError(f"backbone {name!r}: expected 'flux'")
    path = TINY / name if path is None else Path(path)
    parts = backbone_parts(path)
    if lacks := lacking(path, parts):
        raise FileNotFoundError(f"{path}: {lacks}")
    config = configure("flux", *open_model("flux", parts["flux"]))
    dtype = dtype or (torch.float32 if torch.device(device).type == "cpu" else torch.bfloat16)
    context, pooled = encode(parts, text, 512 if config.guidance else 256, device)
    return Backbone(
        name,
        load_flux(parts["flux"], config, device, dtype),
        load_flux_vae(parts["flux_vae"], None, device, torch.promote_types(dtype, torch.float32)),
        context.to(device, dtype),
        pooled.to(device, dtype),
        guidance=1.0 if config.guidance else None,
    )


def encode(parts: dict[str, Path], text: str, longest: int, device: Device) -> tuple[Tensor, ...]:
    """A text's T5 rows [1, L, Dc] and CLIP summary [1, Dp], float32: cached on disk.

    The encoders are loaded only where this text has not met these files before (cache.py), and
    one at a time. L is the tokenizer's model_max_length, at most `longest`.
    """
    settings = read_json(parts["t5 tokens"].with_name("tokenizer_config.json"))
    length = min(longest, int(settings.get("model_max_length", longest)))
    extra_ids = int(settings.get("extra_ids", 100))

    def run() -> dict[str, Tensor]:
        ids = T5Tokens(parts["t5 tokens"], length, extra_ids)([text]).to(device)  # [1, L]
        context = load_t5(parts["t5"], None, device)(ids)  # [1, L, Dc]
        clip = load_clip(parts["clip"], None, device)
        tokens = ClipTokens(parts["clip tokens"].parent, clip.config.max_position_embeddings)
        pooled = clip(tokens([text]).to(device))[1]  # [1, Dp]
        return {"context": context.float(), "pooled": pooled.float()}

    places = parts["t5"], parts["clip"], parts["t5 tokens"].parent, parts["clip tokens"].parent
    found = [file for place in places for file in ([place] if place.is_file() else place.iterdir())]
    files = [file for file in found if file.is_file()]
    kept = cached("flux", files, {"text": text, "length": length}, run)
    return kept["context"], kept["pooled"]


# -------------------------------------------------------------------------------- inspect


def inspect(path: Path, check_values: bool) -> None:
    """Print what a file or folder is and what a backbone lacks, reading headers alone.

    check_values: read the values too. ValueError or OSError at the first thing that is wrong.
    """
    parts = {} if path.is_file() else backbone_parts(path)
    models = {kind: place for kind, place in parts.items() if kind in MODELS and place}
    for kind, place in models.items():
        describe(place, kind, check_values)
    if path.is_file() or (not models and any(path.glob("*.safetensors*"))):
        if describe(path, "", check_values) != "flux" or path.is_dir():
            return
        parts = backbone_parts(path)
    print(f"{path}: {lacking(path, parts) or 'a whole backbone'}")


def describe(path: Path, kind: str, check_values: bool) -> str:
    """Print a checkpoint's model, layout, size and dtypes; return its kind. kind "": whatever."""
    checkpoint = open_checkpoint(path, keys.PREFIX)
    looks_like, title = keys.identify(checkpoint.entries)
    print(f"{path}: {title}")
    if looks_like in MODELS or kind:
        print(f"  {load(kind or looks_like, path, None, 'meta', None).config}")
    entries = checkpoint.entries.values()
    parameters = sum(math.prod(entry.shape) for entry in entries)
    size = sum(file.stat().st_size for file in checkpoint.handles)
    counts = Counter([entry.dtype for entry in entries] + ["scale"] * len(checkpoint.scales))
    dtypes = ", ".join(f"{count} {dtype}" for dtype, count in counts.most_common())
    print(f"  {len(entries)} tensors, {parameters:,} parameters, {size:,} bytes, {dtypes}")
    if check_values:
        checkpoint.check_values()
        print("  all values are finite")
    return looks_like


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="weights.py", description=__doc__.split("\n")[0])
    command = parser.add_subparsers(dest="command", required=True).add_parser(
        "inspect", help="say what a file or folder is and what a backbone lacks"
    )
    command.add_argument("path", type=Path, help="a checkpoint's file or folder, or a backbone's")
    command.add_argument("--check-values", action="store_true", help="refuse NaN and infinity")
    flags = parser.parse_args(argv)
    try:
        inspect(flags.path, flags.check_values)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
