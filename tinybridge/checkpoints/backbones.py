"""A whole backbone from its folder: every part found, opened once, told its text, then filled."""

import html
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from tinybridge.backbone import Backbone
from tinybridge.checkpoints import flux, wan
from tinybridge.checkpoints.cache import cached
from tinybridge.checkpoints.layout import Family
from tinybridge.checkpoints.load import (
    KINDS,
    Device,
    Dtype,
    Opened,
    Where,
    build,
    find,
    open_model,
    read_json,
)
from tinybridge.text.tokenizers import ClipTokens, T5Tokens

FAMILIES = {family.name: family for family in (flux.FAMILY, wan.FAMILY)}
ENCODERS = ("t5", "clip", "umt5")
TINY = Path(__file__).parents[1] / "tiny"
TINY_WINDOW = 9  # frames of the clips that the bundled WAN has seen


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
    text: what the model is told, "" in the paper; the encoders run once for it, see
    `text_conditioning`. keep_encoder: hold T5 or UMT5 too, which prompts in token space need.
    length: rows of text, None: 512, or 256 for FLUX.1-schnell, or 226 for WAN, at most as many as
    the tokenizer says.
    """
    files = backbone_files(name, path)
    models = {part: open_model(part, file) for part, file in files.items() if part in KINDS}
    guided = getattr(models[name].config, "guidance", False)
    length = length or {"flux": 512 if guided else 256, "wan": 226}[name]
    dtype = dtype or (torch.float32 if torch.device(device).type == "cpu" else torch.bfloat16)
    exact = torch.promote_types(dtype, torch.float32)
    context, pooled = text_conditioning(files, models, [text], length, device)
    backbone = Backbone(
        name,
        build(models[name], device, dtype),
        build(models[f"{name}_vae"], device, exact),
        context.to(device, dtype),
        pooled if pooled is None else pooled.to(device, dtype),
        guidance=1.0 if guided else None,
        video=name == "wan",
    )
    if path is None and name == "wan":
        backbone.window = TINY_WINDOW
    if keep_encoder:
        backbone.encoder = build(models["umt5" if name == "wan" else "t5"], device, dtype)
        backbone.ids = token_ids(files, [text], length).to(device)
    return backbone


def with_texts(backbone: Backbone, texts: list[str], path: Where | None = None) -> list[Backbone]:
    """The same frozen models told each of `texts`: a backbone for each. path: as it was loaded."""
    files = backbone_files(backbone.name, path)
    encoders = {part: open_model(part, files[part]) for part in ENCODERS if part in files}
    told = text_conditioning(files, encoders, texts, backbone.length, backbone.device)
    context, pooled = (rows if rows is None else rows.to(backbone.context) for rows in told)
    result = []
    for k in range(len(texts)):
        summary = pooled if pooled is None else pooled[k : k + 1]
        result.append(replace(backbone, context=context[k : k + 1], pooled=summary))
    return result


# --------------------------------------------------------------------------------- where parts lie


def backbone_files(name: str, path: Where | None) -> dict[str, Path]:
    """Where every part of a backbone lies; FileNotFoundError tells how to get those that lack."""
    if name not in FAMILIES:
        raise ValueError(f"backbone {name!r}: expected 'flux' or 'wan'")
    path = TINY / name if path is None else Path(path)
    files = find_parts(path, name)
    if lacks := missing_parts(path, name, files):
        raise FileNotFoundError(f"{path}: {lacks}")
    return {part: file for part, file in files.items() if file}


def find_parts(path: Path, name: str) -> dict[str, Path | None]:
    """Where each part lies of the backbone in folder `path`, or around the transformer `path`."""
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file or folder")
    folder = path.parent if path.is_file() else path
    files: dict[str, Path | None] = {}
    for part, place in FAMILIES[name].places.items():
        named = part == name and path.is_file()
        files[part] = path if named else find(place, folder)
    return files


def missing_parts(path: Path, name: str, files: dict[str, Path | None]) -> str:
    """What a backbone lacks and the command that downloads it; "" when it is whole."""
    missing = [part for part, file in files.items() if file is None]
    if not missing:
        return ""
    file = files[name]
    config = open_model(name, file).config if file else None
    family = FAMILIES[name]
    return advice(path, family, missing, family.variant(config))


def advice(path: Path, family: Family, missing: list[str], variant: str) -> str:
    """What the backbone at `path` lacks, and the command that downloads it.

    variant: "dev" or "schnell", "1.3B" or "14B", whose repository it comes from.
    """
    places = [family.places[part] for part in missing]
    lacks = ", ".join(f"{words} ({' or '.join(spots)})" for words, *spots in places)
    folder = path.parent if path.is_file() else path
    command = f"hf download {family.repository.format(variant)} --local-dir {folder}"
    for _, first, *_ in places:
        top = first.split("/")[0].replace("*", variant)
        command += f' --include "{top}"' if "." in top else f' --include "{top}/*"'
    return f"missing {lacks}; get it with: {command}"


# ------------------------------------------------------------------------------- text conditioning


def token_ids(files: dict[str, Path], texts: list[str], longest: int) -> Tensor:
    """T5's or UMT5's ids of n texts [n, L]; L: the tokenizer's model_max_length, or `longest`."""
    wan = "umt5 tokens" in files
    file = files["umt5 tokens" if wan else "t5 tokens"]
    settings = read_json(file.with_name("tokenizer_config.json"))
    length = min(longest, int(settings.get("model_max_length", longest)))
    extra_ids = int(settings.get("extra_ids", 300 if wan else 100))
    if wan:  # as the vendor cleans them, but for mended encodings
        texts = [" ".join(html.unescape(html.unescape(text)).split()) for text in texts]
    return T5Tokens(file, length, extra_ids)(texts)


def text_conditioning(
    files: dict[str, Path],
    models: dict[str, Opened],
    texts: list[str],
    longest: int,
    device: Device,
) -> tuple[Tensor, Tensor | None]:
    """The rows of n texts [n, L, Dc] and CLIP's summaries [n, Dp], float32: cached on disk.

    The encoders among `models` are filled only where these texts have not met these files before
    (cache.py), and one at a time.
    """
    ids = token_ids(files, texts, longest)  # [n, L]
    name = "wan" if "umt5" in models else "flux"
    encode = wan_text if name == "wan" else flux_text
    read = [file for part in ENCODERS if part in models for file in models[part].files()]
    for part, file in files.items():
        if part.endswith("tokens"):
            beside = [file.with_name(other) for other in ("merges.txt", "tokenizer_config.json")]
            read += [file, *(other for other in beside if other.is_file())]
    told = {"text": "\0".join(texts), "length": ids.shape[1]}
    kept = cached(name, read, told, lambda: encode(files, models, texts, ids, device))
    return kept["context"], kept.get("pooled")


def flux_text(
    files: dict[str, Path],
    models: dict[str, Opened],
    texts: list[str],
    ids: Tensor,
    device: Device,
) -> dict[str, Tensor]:
    """T5's rows of n texts, those of the padding too, and CLIP's summaries. ids [n, L]: T5's."""
    t5 = build(models["t5"], device, None)
    context = t5(ids.to(device))  # [n, L, Dc]
    del t5  # one encoder at a time
    clip = build(models["clip"], device, None)
    tokens = ClipTokens(files["clip tokens"].parent, clip.config.max_position_embeddings)
    pooled = clip(tokens(texts).to(device))[1]  # [n, Dp]
    return {"context": context.float(), "pooled": pooled.float()}


def wan_text(
    files: dict[str, Path],
    models: dict[str, Opened],
    texts: list[str],
    ids: Tensor,
    device: Device,
) -> dict[str, Tensor]:
    """UMT5's rows of the true tokens of n texts, then zeros. ids [n, L]: UMT5's."""
    end = (ids != 0).int().cumsum(1).argmax(1, keepdim=True)  # [n, 1], the last true token
    mask = (torch.arange(ids.shape[1]) <= end).to(device)  # [n, L]
    context = build(models["umt5"], device, None)(ids.to(device), mask)  # [n, L, Dc]
    return {"context": context.float() * mask[..., None]}
