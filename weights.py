"""Official checkpoints into our models, either published layout, every tensor accounted for.

    python weights.py inspect PATH [--check-values]

FLUX.1-dev and FLUX.1-schnell: the vendor's files (flux1-dev.safetensors, ae.safetensors, text
encoders beside them) or the diffusers folder. Names are tables in tinybridge/keys.py, sizes in
tinybridge/sizes.py, files and shards in tinybridge/checkpoint.py. Here: find, fill, load.
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
from tinybridge.checkpoint import Checkpoint, fill, open_checkpoint
from tinybridge.flux import Flux, FluxConfig
from tinybridge.flux_vae import AutoEncoder, AutoEncoderConfig
from tinybridge.text import ClipConfig, ClipText, T5Config, T5Encoder
from tinybridge.tokens import ClipTokens, T5Tokens

TINY = Path(__file__).parent / "tinybridge" / "tiny"

MODELS = {  # kind: model, config, table of the other layout, what its shapes tell, in words
    "flux": (Flux, FluxConfig, keys.FLUX, sizes.flux, "FLUX transformer"),
    "flux_vae": (AutoEncoder, AutoEncoderConfig, keys.FLUX_VAE, sizes.flux_vae, "FLUX autoencoder"),
    "clip": (ClipText, ClipConfig, keys.CLIP, sizes.clip, "CLIP text model"),
    "t5": (T5Encoder, T5Config, keys.T5, sizes.t5, "T5 encoder"),
}

PLACES = {  # part of a backbone: where it lies in its folder, the first that exists
    "flux": ("flux1-*.safetensors", "transformer"),
    "flux_vae": ("ae.safetensors", "vae"),
    "clip": ("text_encoder", "clip_l.safetensors"),
    "t5": ("text_encoder_2", "t5xxl*.safetensors"),
    "clip tokens": ("tokenizer/vocab.json",),
    "t5 tokens": ("tokenizer_2/spiece.model",),
}

Where = str | Path
Device = str | torch.device
Dtype = torch.dtype | None

# ------------------------------------------------------------------------------ find and read


def find(part: str, path: Path) -> Path | None:
    """Where a part of the backbone folder `path` lies, None when it is not there."""
    for pattern in PLACES[part]:
        hits = sorted(path.glob(pattern))
        if len(hits) > 1:
            names = ", ".join(hit.name for hit in hits)
            raise ValueError(f"{path}: more than one {part} ({names}): keep one, or name the file")
        if hits:
            return hits[0]
    return None


def backbone_parts(path: Path) -> dict[str, Path | None]:
    """Where each part lies of the backbone in folder `path`, or around the transformer `path`."""
    if path.is_file():
        return {part: find(part, path.parent) for part in PLACES} | {"flux": path}
    return {part: find(part, path) for part in PLACES}


def advice(folder: Path, missing: list[str], model: str = "dev") -> str:
    """The command that downloads the missing parts into a backbone folder."""
    command = f"hf download black-forest-labs/FLUX.1-{model} --local-dir {folder}"
    for part in missing:
        top = PLACES[part][0].split("/")[0].replace("*", model)
        command += f' --include "{top}"' if "." in top else f' --include "{top}/*"'
    return command


def open_model(kind: str, path: Where) -> tuple[Checkpoint, keys.Table | None]:
    """The tensors of a model, headers only, and the table of its layout (None: our own names).

    path: its file, its folder, or the backbone folder that holds it. ValueError that says what
    was found when the file is another model's.
    """
    path = Path(path)
    file = find(kind, path) or path
    checkpoint = open_checkpoint(file, keys.PREFIX, keys.IGNORED[kind])
    _, _, table, _, words = MODELS[kind]
    found, looks_like = keys.identify(checkpoint.entries)
    if found != kind:
        raise ValueError(f"{file}: expected a {words}, found {looks_like}")
    if checkpoint.entries.keys() >= set(keys.TWINS):
        if not torch.equal(*(checkpoint.read(name, checkpoint.dtype()) for name in keys.TWINS)):
            raise ValueError(f"{file}: {' and '.join(keys.TWINS)} differ, expected one embedding")
        del checkpoint.entries[keys.TWINS[1]]
    first = table[0][0] + "."
    return checkpoint, None if any(n.startswith(first) for n in checkpoint.entries) else table


def configure(kind: str, checkpoint: Checkpoint, table: keys.Table | None) -> Any:
    """The model's config: what shapes tell, over it config.json, over it the file's metadata."""
    _, config, _, infer, words = MODELS[kind]
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
        if (folder / "config.json").is_file():
            text = (folder / "config.json").read_text(encoding="utf-8")
            told |= sizes.published(kind, json.loads(text))
        told |= sizes.published(kind, json.loads(checkpoint.metadata.get("config", "{}")))
        known = {field.name for field in fields(config)}
        return config(**{name: value for name, value in told.items() if name in known})
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"{checkpoint.path}: not a readable {words}: {error}") from None


# ----------------------------------------------------------------------------------- load


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
    if missing := [part for part, place in parts.items() if place is None]:
        raise FileNotFoundError(f"{path}: no {', no '.join(missing)}; {advice(path, missing)}")
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
    told = parts["t5 tokens"].with_name("tokenizer_config.json")
    settings = json.loads(told.read_text(encoding="utf-8")) if told.is_file() else {}
    length = min(longest, int(settings.get("model_max_length", longest)))

    def run() -> dict[str, Tensor]:
        ids = T5Tokens(parts["t5 tokens"], length)([text]).to(device)  # [1, L]
        context = load_t5(parts["t5"], None, device)(ids)  # [1, L, Dc]
        ids = ClipTokens(parts["clip tokens"].parent)([text]).to(device)  # [1, 77]
        pooled = load_clip(parts["clip"], None, device)(ids)[1]  # [1, Dp]
        return {"context": context.float(), "pooled": pooled.float()}

    places = parts["t5"], parts["clip"], parts["t5 tokens"].parent, parts["clip tokens"].parent
    files = [file for place in places for file in ([place] if place.is_file() else place.iterdir())]
    kept = cached("flux", files, {"text": text, "length": length}, run)
    return kept["context"], kept["pooled"]


# -------------------------------------------------------------------------------- inspect


def inspect(path: Path, check_values: bool) -> None:
    """Print what a file, a model's folder or a backbone's folder is, and what a backbone lacks.

    Everything is read but the values, and these too with check_values. ValueError or OSError at
    the first thing that is wrong.
    """
    parts = backbone_parts(path) if path.is_dir() else {}
    found = {part: place for part, place in parts.items() if place}
    for kind, place in found.items() or [("", path)]:
        if kind in MODELS or not kind:
            describe(place, kind, check_values)
        else:
            print(f"{place.parent}: {kind}")
    if found:
        missing = [part for part in parts if part not in found]
        print(f"missing for a backbone: {', '.join(missing) or 'nothing'}")
        if missing:
            print("  " + advice(path, missing))


def describe(path: Path, kind: str, check_values: bool) -> None:
    """Print a checkpoint's model, layout, size and dtypes; kind "": whatever it is."""
    checkpoint = open_checkpoint(path, keys.PREFIX)
    looks_like, words = keys.identify(checkpoint.entries)
    dtypes = Counter(entry.dtype for entry in checkpoint.entries.values())
    print(f"{path}: {words}")
    if looks_like in MODELS or kind:
        model = load(kind or looks_like, path, None, "meta", None)
        print(f"  {model.config}")
    values = sum(math.prod(entry.shape) for entry in checkpoint.entries.values())
    print(
        f"  {len(checkpoint.entries)} tensors, {values:,} parameters, "
        f"{sum(file.stat().st_size for file in checkpoint.handles):,} bytes, "
        + ", ".join(f"{count} {dtype}" for dtype, count in dtypes.most_common())
        + (f", {len(checkpoint.scales)} scales" if checkpoint.scales else "")
    )
    if check_values:
        checkpoint.check_values()
        print("  all values are finite")


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
