"""Official checkpoints into our models, either published layout, every tensor accounted for.

    python weights.py inspect PATH [--check-values]

FLUX.1-dev and -schnell, WAN 2.1 T2V 1.3B and 14B: the vendor's files (flux1-dev.safetensors,
ae.safetensors; Wan2.1_VAE.pth, ...) or the diffusers folder. Names are tables in tinybridge/keys*,
sizes in tinybridge/sizes.py, places in tinybridge/places.py, files and shards in
tinybridge/checkpoint.py, accounting in tinybridge/fill.py.
"""

import argparse
import json
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tinybridge import keys, sizes, wan_vae
from tinybridge.backbone import Backbone
from tinybridge.cache import cached
from tinybridge.checkpoint import Checkpoint, open_checkpoint
from tinybridge.fill import fill, lookup, one_embedding, summary
from tinybridge.flux import Flux, FluxConfig
from tinybridge.flux_vae import AutoEncoder, AutoEncoderConfig
from tinybridge.keys_wan import WAN
from tinybridge.keys_wan_vae import WAN_VAE, rows
from tinybridge.places import PLACES, PLACES_WAN, advice, backbone_parts, find, read_json
from tinybridge.text import ClipConfig, ClipText, T5Config, T5Encoder
from tinybridge.tokens import ClipTokens, T5Tokens
from tinybridge.wan import FLOAT32, Wan, WanConfig

TINY = Path(__file__).parent / "tinybridge" / "tiny"

MODELS = {  # kind: model, config, table of the other layout, what its shapes tell
    "flux": (Flux, FluxConfig, keys.FLUX, sizes.flux),
    "flux_vae": (AutoEncoder, AutoEncoderConfig, keys.FLUX_VAE, sizes.flux_vae),
    "clip": (ClipText, ClipConfig, keys.CLIP, sizes.clip),
    "t5": (T5Encoder, T5Config, None, sizes.t5),
    "wan": (Wan, WanConfig, WAN, sizes.wan),
    "wan_vae": (wan_vae.AutoEncoder, wan_vae.AutoEncoderConfig, WAN_VAE, sizes.wan_vae),
    "umt5": (T5Encoder, T5Config, keys.UMT5, sizes.umt5),
}
WORDS = {part: place[0] for part, place in (PLACES | PLACES_WAN).items()}
PICKLED = ("wan_vae", "umt5", "")  # whose files may be pickles; "": not known before it is opened

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
    checkpoint = open_checkpoint(file, keys.PREFIX, keys.IGNORED[kind], kind in PICKLED)
    found, looks_like = keys.identify(checkpoint.entries)
    if found != kind:
        raise ValueError(f"{file}: expected a {WORDS[kind]}, found {looks_like}")
    one_embedding(checkpoint)
    table = MODELS[kind][2] or ()
    own = tuple(ours for ours, theirs, _ in table if ours != theirs and "{" not in ours)
    ours = not table or any(name.startswith(own) for name in checkpoint.entries)
    return checkpoint, None if ours else table


def configure(kind: str, checkpoint: Checkpoint, table: keys.Table | None) -> Any:
    """The model's config: what shapes tell, over it config.json, over it the file's metadata."""
    _, config, _, infer = MODELS[kind]
    folder = checkpoint.path if checkpoint.path.is_dir() else checkpoint.path.parent
    try:
        told = infer(*lookup(checkpoint, table))
        told |= sizes.published(kind, read_json(folder / "config.json"))
        told |= sizes.published(kind, json.loads(checkpoint.metadata.get("config", "{}")))
        known = {field.name for field in fields(config)}
        if lost := [name for name in known if name in told and told[name] is None]:
            raise ValueError(f"{lost[0]} is not told by its tensors: expected a config.json beside")
        return config(**{name: value for name, value in told.items() if name in known})
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"{checkpoint.path}: not a readable {WORDS[kind]}: {error}") from None


def lacking(path: Path, parts: dict[str, Path | None]) -> str:
    """What a backbone lacks and the command that downloads it; "" when it is whole."""
    missing = [part for part, place in parts.items() if place is None]
    if not missing:
        return ""
    name, place = next(iter(parts.items()))
    config = place and configure(name, *open_model(name, place))
    if name == "wan":
        return advice(path, missing, "14B" if config and config.hidden_size == 5120 else "1.3B")
    return advice(path, missing, "dev" if config is None or config.guidance else "schnell")


# ------------------------------------------------------------------------------------ load


def load(kind: str, path: Where, config: Any, device: Device, dtype: Dtype) -> Any:
    """What every load_ function does for its kind; the result is a MODELS[kind][0]."""
    checkpoint, table = open_model(kind, path)
    config = config or configure(kind, checkpoint, table)
    with torch.device("meta"):
        model = MODELS[kind][0](config)
    if kind == "wan_vae" and table:  # diffusers counts the decoder's levels, which the names hold
        table = rows(config.num_res_blocks, len(config.dim_mult))
    if dtype is None:
        dtype = checkpoint.dtype()
        if kind in ("t5", "umt5") and dtype == torch.float16:
            dtype = torch.float32  # T5's residual stream leaves the range of float16
    fill(model, checkpoint, table, device, dtype, FLOAT32 if kind == "wan" else ())
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


def load_wan(
    path: Where, config: WanConfig | None = None, device: Device = "cpu", dtype: Dtype = None
) -> Wan:
    """WAN 2.1 T2V, as `load_flux`; what wan.FLOAT32 names is never narrower than float32."""
    return load("wan", path, config, device, dtype)


def load_wan_vae(
    path: Where,
    config: wan_vae.AutoEncoderConfig | None = None,
    device: Device = "cpu",
    dtype: Dtype = None,
) -> wan_vae.AutoEncoder:
    """The autoencoder of WAN 2.1, as `load_flux`, the vendor's .pth too (see checkpoint.py)."""
    return load("wan_vae", path, config, device, dtype)


def load_umt5(
    path: Where, config: T5Config | None = None, device: Device = "cpu", dtype: Dtype = None
) -> T5Encoder:
    """The UMT5 encoder of WAN 2.1, as `load_t5`, the vendor's .pth too."""
    return load("umt5", path, config, device, dtype)


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
    parts = {} if path.is_file() else backbone_parts(path, backbone_name(path))
    models = {kind: place for kind, place in parts.items() if kind in MODELS and place}
    for kind, place in models.items():
        describe(place, kind, check_values)
    if path.is_file() or (not models and any(path.glob("*.safetensors*"))):
        kind = describe(path, "", check_values)
        if kind not in ("flux", "wan") or path.is_dir():
            return
        parts = backbone_parts(path, kind)
    print(f"{path}: {lacking(path, parts) or 'a whole backbone'}")


def backbone_name(path: Path) -> str:
    """Which backbone folder `path` holds: "wan" or, where nothing says so, "flux"."""
    if place := find("wan", path):
        kind, words = keys.identify(open_checkpoint(place, keys.PREFIX).entries)
        # diffusers' transformer at the top: the folder is that of the part alone
        return "wan" if kind == "wan" and (place.is_dir() or "vendor" in words) else "flux"
    files = find("wan_vae", path), find("umt5", path)
    return "wan" if any(file and file.is_file() for file in files) else "flux"


def describe(path: Path, kind: str, check_values: bool) -> str:
    """Print a checkpoint's model, layout, size and dtypes; return its kind. kind "": whatever."""
    checkpoint = open_checkpoint(path, keys.PREFIX, pickles=kind in PICKLED)
    looks_like, title = keys.identify(checkpoint.entries)
    print(f"{path}: {title}")
    if looks_like in MODELS or kind:
        print(f"  {load(kind or looks_like, path, None, 'meta', None).config}")
    print(f"  {summary(checkpoint)}")
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
