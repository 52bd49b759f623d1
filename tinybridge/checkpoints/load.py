"""What every loader of weights.py does: open a checkpoint, tell its config, fill its model.

One table names the models; a kind is its key. Names of tensors are in keys*, sizes in sizes.py,
places in places.py, files in tensors.py, accounting in fill.py.
"""

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch

from tinybridge import wan_vae
from tinybridge.checkpoints import layout, sizes
from tinybridge.checkpoints.fill import fill, lookup, one_embedding
from tinybridge.checkpoints.keys_wan import WAN
from tinybridge.checkpoints.keys_wan_vae import WAN_VAE, rows
from tinybridge.checkpoints.places import PLACES, PLACES_WAN, advice, find, read_json
from tinybridge.checkpoints.tensors import Checkpoint, open_checkpoint
from tinybridge.flux import Flux, FluxConfig
from tinybridge.flux_vae import AutoEncoder, AutoEncoderConfig
from tinybridge.text.encoders import ClipConfig, ClipText, T5Config, T5Encoder
from tinybridge.wan import FLOAT32, Wan, WanConfig

MODELS = {  # kind: model, config, table of the other layout, what its shapes tell
    "flux": (Flux, FluxConfig, layout.FLUX, sizes.flux),
    "flux_vae": (AutoEncoder, AutoEncoderConfig, layout.FLUX_VAE, sizes.flux_vae),
    "clip": (ClipText, ClipConfig, layout.CLIP, sizes.clip),
    "t5": (T5Encoder, T5Config, None, sizes.t5),
    "wan": (Wan, WanConfig, WAN, sizes.wan),
    "wan_vae": (wan_vae.AutoEncoder, wan_vae.AutoEncoderConfig, WAN_VAE, sizes.wan_vae),
    "umt5": (T5Encoder, T5Config, layout.UMT5, sizes.umt5),
}
WORDS = {part: place[0] for part, place in (PLACES | PLACES_WAN).items()}
PICKLED = ("wan_vae", "umt5", "")  # whose files may be pickles; "": not known before it is opened

Where = str | Path
Device = str | torch.device
Dtype = torch.dtype | None

# ------------------------------------------------------------------------------------ find, read


def open_model(kind: str, path: Where) -> tuple[Checkpoint, layout.Table | None]:
    """The tensors of a model, headers only, and the table of its layout (None: our own names).

    path: its file, its folder, or the backbone folder that holds it. ValueError that says what
    was found when the file is another model's.
    """
    path = Path(path)
    file = find(kind, path) or path
    checkpoint = open_checkpoint(file, layout.PREFIX, layout.IGNORED[kind], kind in PICKLED)
    found, looks_like = layout.identify(checkpoint.entries)
    if found != kind:
        raise ValueError(f"{file}: expected a {WORDS[kind]}, found {looks_like}")
    one_embedding(checkpoint)
    table = MODELS[kind][2] or ()
    own = tuple(ours for ours, theirs, _ in table if ours != theirs and "{" not in ours)
    ours = not table or any(name.startswith(own) for name in checkpoint.entries)
    return checkpoint, None if ours else table


def configure(kind: str, checkpoint: Checkpoint, table: layout.Table | None) -> Any:
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
