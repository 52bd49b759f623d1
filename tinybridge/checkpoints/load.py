"""One model from a file or folder: opened once, headers only, then configured, then filled.

The rows that say what a model's files are like are in flux.py and wan.py, one a model.
"""

from dataclasses import dataclass, fields, replace
from operator import attrgetter
from pathlib import Path
from typing import Any

import torch

from tinybridge import wan_vae
from tinybridge.checkpoints.configs import read_config
from tinybridge.checkpoints.fetched import fetched, linears
from tinybridge.checkpoints.fill import fill, lookup
from tinybridge.checkpoints.folders import find, home
from tinybridge.checkpoints.identify import FAMILIES, KINDS, identify, plain
from tinybridge.checkpoints.layout import Kind, Table
from tinybridge.checkpoints.offload import stream_blocks
from tinybridge.checkpoints.relatives import check_names, check_pipeline
from tinybridge.checkpoints.scales import take_scales
from tinybridge.checkpoints.tensors import Checkpoint, open_checkpoint
from tinybridge.flux import Flux, FluxConfig
from tinybridge.flux_vae import AutoEncoder, AutoEncoderConfig
from tinybridge.text.encoders import ClipConfig, ClipText, T5Config, T5Encoder
from tinybridge.wan import Wan, WanConfig

Where = str | Path
Device = str | torch.device
Dtype = torch.dtype | None


@dataclass(frozen=True)
class Opened:
    """A model's file, its layout and its config; no value has been read.

    table: the names of the other layout, None where the file has our own.
    """

    kind: Kind
    checkpoint: Checkpoint
    table: Table | None
    config: Any

    def files(self) -> list[Path]:
        """Every file that its tensors and its config are read from."""
        files = list(self.checkpoint.handles)
        config = files[0].with_name("config.json")
        return [*files, config] if config.is_file() else files


# ------------------------------------------------------------------------------------ headers


def open_model(name: str, path: Where, config: Any = None) -> Opened:
    """The model `name`, a key of KINDS, at `path`: its file, its folder, or its backbone's folder.

    config None: told by shapes and config.json. ValueError or OSError in one line that names the
    file and says what was found when it is another model's, not whole or not there.
    """
    path = Path(path)
    if name in FAMILIES:
        check_pipeline(path, FAMILIES[name])
    if path.is_dir():
        path = home(path)
        path = find(name, path) or path
    return open_part(name, path, config)


def open_part(name: str, file: Path, config: Any = None) -> Opened:
    """As `open_model`, from the file or folder that holds this part and no other."""
    kind = KINDS[name]
    checkpoint = open_checkpoint(file, kind.pickled)
    opened = recognise(kind, checkpoint, config)
    check_names(kind, file, checkpoint.metadata)
    return opened


def recognise(kind: Kind, checkpoint: Checkpoint, config: Any = None) -> Opened:
    """A checkpoint as that of a model of this kind; ValueError says what was found instead."""
    own = plain(kind, checkpoint)
    if not own.entries:
        found, words = identify(checkpoint.entries)
        if not found and not words.startswith("unknown"):
            raise ValueError(f"{checkpoint.path}: {words}: not supported, expected {kind.words}")
        raise ValueError(f"{checkpoint.path}: expected a {kind.words}, found {words}")
    checkpoint = only(kind, take_scales(own))
    vendor = any(name.startswith(kind.own.start) for name in checkpoint.entries)
    table = None if vendor else kind.table
    config = config or configure(kind, checkpoint, table)
    for name in kind.counts:
        value = getattr(config, name)
        if (len(value) if isinstance(value, tuple) else value) > len(checkpoint.entries):
            raise ValueError(
                f"{checkpoint.path}: {name} is said to be {str(value)[:40]}, but the file has "
                f"{len(checkpoint.entries)} tensors: take the config.json of this model"
            )
    if table and kind.rows:
        table = kind.rows(config)
    return Opened(kind, checkpoint, table, config)


def only(kind: Kind, checkpoint: Checkpoint) -> Checkpoint:
    """A checkpoint without what the files of this kind hold beside the model."""
    entries, scales = dict(checkpoint.entries), dict(checkpoint.scales)
    if kind.ignored:
        entries = {name: e for name, e in entries.items() if not name.startswith(kind.ignored)}
    if kind.twins:
        own, other = kind.twins
        if other in entries and own not in entries:
            entries[own] = entries.pop(other)
            if other in scales:
                scales[own] = scales.pop(other)
    return replace(checkpoint, entries=entries, scales=scales)


def configure(kind: Kind, checkpoint: Checkpoint, table: Table | None) -> Any:
    """The model's config: what shapes tell, over it config.json, over it the file's metadata."""
    said = read_config(kind, checkpoint)
    try:
        told = kind.sizes(*lookup(checkpoint, table)) | said
        known = {field.name for field in fields(kind.config)}
        if lost := [name for name in known if name in told and told[name] is None]:
            raise ValueError(f"{lost[0]} is not told by its tensors: expected a config.json beside")
        return kind.config(**{name: value for name, value in told.items() if name in known})
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"{checkpoint.path}: not a readable {kind.words}: {error}") from None


# ------------------------------------------------------------------------------------- values


def build(
    opened: Opened, device: Device, dtype: Dtype, float8: bool = False, offload: bool = False
) -> Any:
    """The model of an opened checkpoint, filled, frozen, in eval mode.

    float8: the matrices of its blocks are held in 8 bits, see float8.py. offload: they stay on the
    host, see offload.py. Both are for models whose row says where the blocks lie.
    """
    kind, checkpoint = opened.kind, opened.checkpoint
    try:
        with torch.device("meta"):
            model = kind.model(opened.config)
    except (ValueError, TypeError, ArithmeticError, LookupError, RuntimeError) as error:
        told = str(error).split("\n")[0]
        raise ValueError(f"{checkpoint.path}: no {kind.words} has such sizes: {told}") from None
    if dtype is None:
        dtype = checkpoint.dtype()
        if dtype == torch.float16 and not kind.half:
            dtype = torch.float32
    blocks = list(attrgetter(kind.blocks)(model)) if float8 or offload else []
    inside = {linear for block in blocks for linear in linears(block).values()}
    matrices = {f"{name}.weight": part for name, part in linears(model).items() if part in inside}
    first = "cpu" if offload and torch.device(device).type != "meta" else device
    options = kind.float32, kind.twins, matrices if float8 else ()
    scales = fill(model, checkpoint, opened.table, first, dtype, *options)
    for name, scale in scales.items():
        linear = matrices[name]
        weight = fetched(linear)
        weight.dtype, weight.scale = dtype, scale.to(device)
        linear.register_buffer(
            "row_scale", weight.scale
        )  # a state_dict has all that the device has
        if not offload:
            linear.register_buffer("stored", weight.stored)
    if offload:
        stream_blocks(model, blocks, torch.device(device), kind.ahead)
    return model


def load(name: str, path: Where, config: Any, device: Device, dtype: Dtype) -> Any:
    """What every load_ function does for its row of KINDS."""
    return build(open_model(name, path, config), device, dtype)


def load_flux(
    path: Where, config: FluxConfig | None = None, device: Device = "cpu", dtype: Dtype = None
) -> Flux:
    """FLUX.1-dev or -schnell (told by the guidance embedder) from a file or folder, either layout.

    dtype None: that of most of the stored values; float8 becomes bfloat16. Weights are frozen, in
    eval mode, and on the CPU unchanged ones stay views of the mapped file. OSError and ValueError
    name the file and what is wrong with it.
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
    """The autoencoder of WAN 2.1, as `load_flux`, the vendor's .pth too."""
    return load("wan_vae", path, config, device, dtype)


def load_umt5(
    path: Where, config: T5Config | None = None, device: Device = "cpu", dtype: Dtype = None
) -> T5Encoder:
    """The UMT5 encoder of WAN 2.1, as `load_t5`, the vendor's .pth too."""
    return load("umt5", path, config, device, dtype)
