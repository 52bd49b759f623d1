"""Official checkpoints into our models, either published layout, every tensor accounted for.

    python weights.py inspect PATH [--check-values]

FLUX.1-dev and -schnell, WAN 2.1 T2V 1.3B and 14B: the vendor's files (flux1-dev.safetensors,
ae.safetensors; Wan2.1_VAE.pth, ...) or the diffusers folder. Names are tables in tinybridge/keys*,
what opens and fills a model is tinybridge/checkpoints/load.py.
"""

import argparse
import html
import sys
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from tinybridge import wan_vae
from tinybridge.backbone import Backbone
from tinybridge.checkpoints import layout
from tinybridge.checkpoints.cache import cached
from tinybridge.checkpoints.fill import summary
from tinybridge.checkpoints.load import (
    MODELS,
    PICKLED,
    Device,
    Dtype,
    Where,
    configure,
    lacking,
    load,
    open_model,
)
from tinybridge.checkpoints.places import backbone_parts, find, read_json
from tinybridge.checkpoints.tensors import open_checkpoint
from tinybridge.flux import Flux, FluxConfig
from tinybridge.flux_vae import AutoEncoder, AutoEncoderConfig
from tinybridge.text.encoders import ClipConfig, ClipText, T5Config, T5Encoder
from tinybridge.text.tokenizers import ClipTokens, T5Tokens
from tinybridge.wan import Wan, WanConfig

TINY = Path(__file__).parent / "tinybridge" / "tiny"
TINY_WINDOW = 9  # frames of the clips that the bundled WAN has seen

# ------------------------------------------------------------------------------------ one model


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
    """The autoencoder of WAN 2.1, as `load_flux`, the vendor's .pth too."""
    return load("wan_vae", path, config, device, dtype)


def load_umt5(
    path: Where, config: T5Config | None = None, device: Device = "cpu", dtype: Dtype = None
) -> T5Encoder:
    """The UMT5 encoder of WAN 2.1, as `load_t5`, the vendor's .pth too."""
    return load("umt5", path, config, device, dtype)


# ------------------------------------------------------------------------------------ a backbone


def load_backbone(
    name: str,
    path: Where | None = None,
    device: Device = "cpu",
    dtype: Dtype = None,
    text: str = "",
    keep_encoder: bool = False,
    length: int | None = None,
) -> Backbone:
    """A whole backbone, "flux" or "wan", from its folder; path None: the bundled tiny one.

    path may also be the transformer's file, with the other parts beside it. dtype is the model's,
    None: float32 on the CPU, else bfloat16; the autoencoder is small and gets at least float32.
    text: what the model is told, "" in the paper; the encoders run once for it, see `encode`.
    keep_encoder: hold T5 or UMT5 too, which prompts in token space need. length: rows of text,
    None: 512, or 256 for FLUX.1-schnell, or 226 for WAN, at most as many as the tokenizer says.
    """
    parts = whole(name, path)
    config = configure(name, *open_model(name, parts[name]))
    guided = getattr(config, "guidance", False)
    length = length or {"flux": 512 if guided else 256, "wan": 226}[name]
    dtype = dtype or (torch.float32 if torch.device(device).type == "cpu" else torch.bfloat16)
    exact = torch.promote_types(dtype, torch.float32)
    context, pooled = encode(parts, [text], length, device)
    backbone = Backbone(
        name,
        load(name, parts[name], config, device, dtype),
        load(f"{name}_vae", parts[f"{name}_vae"], None, device, exact),
        context.to(device, dtype),
        pooled if pooled is None else pooled.to(device, dtype),
        guidance=1.0 if guided else None,
        video=name == "wan",
    )
    if path is None and name == "wan":
        backbone.window = TINY_WINDOW
    if keep_encoder:
        read = load_umt5 if name == "wan" else load_t5
        backbone.encoder = read(parts["umt5" if name == "wan" else "t5"], None, device, dtype)
        backbone.ids = spell(parts, [text], length).to(device)
    return backbone


def tell(backbone: Backbone, texts: list[str], path: Where | None = None) -> list[Backbone]:
    """The same frozen models told each of `texts`: a backbone for each. path: as it was loaded."""
    rows = encode(whole(backbone.name, path), texts, backbone.length, backbone.device)
    context, pooled = (part if part is None else part.to(backbone.context) for part in rows)
    return [
        replace(
            backbone,
            context=context[k : k + 1],
            pooled=pooled if pooled is None else pooled[k : k + 1],
        )
        for k in range(len(texts))
    ]


def whole(name: str, path: Where | None) -> dict[str, Path]:
    """Where every part of a backbone lies; FileNotFoundError tells how to get those that lack."""
    if name not in ("flux", "wan"):
        raise ValueError(f"backbone {name!r}: expected 'flux' or 'wan'")
    path = TINY / name if path is None else Path(path)
    parts = backbone_parts(path, name)
    if lacks := lacking(path, parts):
        raise FileNotFoundError(f"{path}: {lacks}")
    return parts


def spell(parts: dict[str, Path], texts: list[str], longest: int) -> Tensor:
    """T5's or UMT5's ids of n texts [n, L]; L: the tokenizer's model_max_length, or `longest`."""
    wan = "umt5 tokens" in parts
    file = parts["umt5 tokens" if wan else "t5 tokens"]
    settings = read_json(file.with_name("tokenizer_config.json"))
    length = min(longest, int(settings.get("model_max_length", longest)))
    extra_ids = int(settings.get("extra_ids", 300 if wan else 100))
    if wan:  # as the vendor cleans them, but for mended encodings
        texts = [" ".join(html.unescape(html.unescape(text)).split()) for text in texts]
    return T5Tokens(file, length, extra_ids)(texts)


def encode(
    parts: dict[str, Path], texts: list[str], longest: int, device: Device
) -> tuple[Tensor, Tensor | None]:
    """The rows of n texts [n, L, Dc] and CLIP's summaries [n, Dp], float32: cached on disk.

    The encoders are loaded only where these texts have not met these files before (cache.py), and
    one at a time. FLUX reads T5's rows of the padding too. WAN gets UMT5's rows of the true tokens,
    then zeros, and no summary.
    """
    wan, ids = "umt5" in parts, spell(parts, texts, longest)  # [n, L]

    def run() -> dict[str, Tensor]:
        if wan:
            end = (ids != 0).int().cumsum(1).argmax(1, keepdim=True)  # [n, 1], the last true token
            mask = (torch.arange(ids.shape[1]) <= end).to(device)  # [n, L]
            context = load_umt5(parts["umt5"], None, device)(ids.to(device), mask)
            return {"context": context.float() * mask[..., None]}
        context = load_t5(parts["t5"], None, device)(ids.to(device))  # [n, L, Dc]
        clip = load_clip(parts["clip"], None, device)
        tokens = ClipTokens(parts["clip tokens"].parent, clip.config.max_position_embeddings)
        pooled = clip(tokens(texts).to(device))[1]  # [n, Dp]
        return {"context": context.float(), "pooled": pooled.float()}

    names = ("umt5", "umt5 tokens") if wan else ("t5", "clip", "t5 tokens", "clip tokens")
    places = [parts[name].parent if "tokens" in name else parts[name] for name in names]
    found = [file for place in places for file in ([place] if place.is_file() else place.iterdir())]
    files = [file for file in found if file.is_file()]
    told = {"text": "\0".join(texts), "length": ids.shape[1]}
    kept = cached("wan" if wan else "flux", files, told, run)
    return kept["context"], kept.get("pooled")


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
    for kind in ("wan", "wan_vae", "umt5"):
        with suppress(ValueError, OSError):  # what cannot be read is told when it is described
            if place := find(kind, path):
                opened = open_checkpoint(place, layout.PREFIX, pickles=kind in PICKLED)
                found, words = layout.identify(opened.entries)
                # diffusers' transformer at the top: the folder is that of the part alone
                if found == kind and (kind != "wan" or place.is_dir() or "vendor" in words):
                    return "wan"
    return "wan" if find("umt5 tokens", path) else "flux"


def describe(path: Path, kind: str, check_values: bool) -> str:
    """Print a checkpoint's model, layout, size and dtypes; return its kind. kind "": whatever."""
    checkpoint = open_checkpoint(path, layout.PREFIX, pickles=kind in PICKLED)
    looks_like, title = layout.identify(checkpoint.entries)
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
