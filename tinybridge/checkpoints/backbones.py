"""A whole backbone from its folder: every part found, opened once, told its text, then filled."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from tinybridge.backbone import Backbone
from tinybridge.checkpoints.conditioning import (
    ENCODERS,
    brought,
    encoders_to_read,
    text_conditioning,
    token_ids,
)
from tinybridge.checkpoints.conditioning_files import LONGEST, conditioning_for, write_conditioning
from tinybridge.checkpoints.fit import check_fit
from tinybridge.checkpoints.float8 import check_weights_dtype
from tinybridge.checkpoints.folders import SHARED, family_of, find, home, lookalikes, search
from tinybridge.checkpoints.identify import FAMILIES, KINDS
from tinybridge.checkpoints.load import Device, Dtype, Opened, Where, build, open_part
from tinybridge.checkpoints.relatives import check_pipeline

TINY = Path(__file__).parents[1] / "tiny"
# Pixels along a side that a model sees at once, about the most that it has learned from.
SIZES, TINY_SIZE = {"flux": 1536, "wan": 832}, 64
TINY_WINDOW = 9  # frames of the clips that the bundled WAN has seen


def load_backbone(
    name: str,
    path: Where | None = None,
    device: Device = "cpu",
    dtype: Dtype = None,
    text: str = "",
    keep_encoder: bool = False,
    length: int | None = None,
    parts: Mapping[str, Where] | None = None,
    conditioning: Where | None = None,
    weights_dtype: str | None = None,
    offload: bool = False,
) -> Backbone:
    """A whole backbone, "flux" or "wan", from its folder; path None: the bundled tiny one.

    path may also be the transformer's file, with the other parts beside it. dtype is the model's,
    None: float32 on the CPU, else bfloat16; the autoencoder is small and gets at least float32.
    text: what the model is told, "" in the paper; the encoders run once for it, see
    `text_conditioning`. keep_encoder: hold T5 or UMT5 too, which prompts in token space need.
    length: rows of text, None: 512, or 256 for FLUX.1-schnell, or 226 for WAN, at most as many as
    the tokenizer says. parts: files or folders of single parts, which are not looked for then.
    conditioning: a file of `save_conditioning`, which stands for the text encoders and tokenizers.
    weights_dtype: "float8" holds the matrices of the transformer's blocks in 8 bits, see float8.py.
    offload: the blocks' weights stay in the host's memory and stream, see offload.py.
    On the device "meta" nothing but headers is read: all shapes are there, and no value.
    """
    if conditioning and keep_encoder:
        raise ValueError(f"{conditioning}: tokens need the text encoder itself: leave this out")
    check_weights_dtype(weights_dtype, device)
    files = backbone_files(name, path, parts, told=bool(conditioning))
    models = {part: open_part(part, file) for part, file in files.items() if part in KINDS}
    check_fit(FAMILIES[name], models, files)
    guided = getattr(models[name].config, "guidance", False)
    longest = length or usual_length(name, models)
    dtype = dtype or (torch.float32 if torch.device(device).type == "cpu" else torch.bfloat16)
    exact = torch.promote_types(dtype, torch.float32)
    if conditioning:
        config, file = models[name].config, Path(conditioning)
        context, pooled = conditioning_for(file, name, config, longest, length, text)
    else:
        context, pooled = text_conditioning(files, models, [text], longest, device, offload)
    backbone = Backbone(
        name,
        build(models[name], device, dtype, weights_dtype == "float8", offload),
        build(models[f"{name}_vae"], device, exact),
        context.to(device, dtype),
        pooled if pooled is None else pooled.to(device, dtype),
        guidance=1.0 if guided else None,
        video=name == "wan",
        size=SIZES[name] if path else TINY_SIZE,
    )
    if path is None and name == "wan":
        backbone.window = TINY_WINDOW
    if keep_encoder:
        encoder = models["umt5" if name == "wan" else "t5"]
        backbone.encoder = build(encoder, device, dtype, offload=offload)
        backbone.ids = token_ids(files, [text], longest).to(device)
    return backbone


def text_encoders(
    name: str,
    path: Where | None = None,
    text: str = "",
    length: int | None = None,
    parts: Mapping[str, Where] | None = None,
    conditioning: Where | None = None,
    offload: bool = False,
) -> list[nn.Module]:
    """Those that load_backbone will read if it is told the same, of headers; none: none is read."""
    if conditioning:
        return []
    files = backbone_files(name, path, parts)
    models = {part: open_part(part, file) for part, file in files.items() if part in KINDS}
    longest = length or usual_length(name, models)
    return encoders_to_read(files, models, [text], longest, offload)


def usual_length(name: str, models: Mapping[str, Opened]) -> int:
    """Rows of text that the backbone is told where nobody says otherwise."""
    if name == "wan":
        return 226
    schnell = name in models and not models[name].config.guidance
    return 256 if schnell else 512


def save_conditioning(
    path: Where,
    out: Where,
    text: str = "",
    length: int | None = None,
    parts: Mapping[str, Where] | None = None,
) -> None:
    """Writes what the text encoders in a backbone's folder make of a text, see `load_backbone`.

    Transformer and autoencoder need not be there. ValueError or OSError as in `load_backbone`, and
    FileExistsError if `out` is there.
    """
    path, out = Path(path), Path(out)
    if os.path.lexists(out):
        raise FileExistsError(f"{out}: is there already: name another --out, or remove it")
    if not out.parent.is_dir():
        raise FileNotFoundError(f"{out}: no folder {out.parent}")
    if length is not None and not 0 < length <= LONGEST:
        raise ValueError(f"--length {length}: expected 1 to {LONGEST} rows")
    name = family_of(home(path))
    if not name:
        raise ValueError(f"{path}: no text encoder found: expected a backbone's folder")
    found = find_parts(path, name, parts)
    files = {part: file for part, file in found.items() if file}
    needed = {part: file for part, file in found.items() if is_textual(part)}
    if None in needed.values():
        raise FileNotFoundError(f"{path}: {missing_parts(path, name, needed)}")
    models = {part: open_part(part, file) for part, file in files.items() if part in KINDS}
    check_fit(FAMILIES[name], models, files)
    longest = length or usual_length(name, models)
    context, pooled = text_conditioning(files, models, [text], longest, "cpu")
    read = [file for part in ENCODERS if part in models for file in models[part].files()]
    write_conditioning(out, name, text, context, pooled, read)


def with_texts(backbone: Backbone, texts: list[str], path: Where | None = None) -> list[Backbone]:
    """The same frozen models told each of `texts`: a backbone for each. path: as it was loaded."""
    files = backbone_files(backbone.name, path)
    encoders = {part: open_part(part, files[part]) for part in ENCODERS if part in files}
    told = text_conditioning(files, encoders, texts, backbone.length, backbone.device)
    context, pooled = (rows if rows is None else rows.to(backbone.context) for rows in told)
    result = []
    for k in range(len(texts)):
        summary = pooled if pooled is None else pooled[k : k + 1]
        result.append(replace(backbone, context=context[k : k + 1], pooled=summary))
    return result


# --------------------------------------------------------------------------------- where parts lie


def named_parts(texts: Sequence[str]) -> dict[str, Path]:
    """The files of parts as a command line names them, PART=FILE each; ValueError for others."""
    named: dict[str, Path] = {}
    for text in texts:
        part, _, file = text.partition("=")
        if not (part and file):
            raise ValueError(f"--part {text}: expected PART=FILE, as umt5=encoder.safetensors")
        named[part.replace("-", " ")] = Path(file)
    return named


def is_textual(part: str) -> bool:
    """Whether a part is a text encoder or a tokenizer, which a conditioning file stands for."""
    return part in ENCODERS or part not in KINDS


def backbone_files(
    name: str,
    path: Where | None,
    parts: Mapping[str, Where] | None = None,
    told: bool = False,
) -> dict[str, Path]:
    """Where every part of a backbone lies; FileNotFoundError tells how to get those that lack.

    told: those that make text conditioning are not looked for.
    ValueError where the folder is that of another model, or holds two files for one part.
    """
    if name not in FAMILIES:
        raise ValueError(f"backbone {name!r}: expected 'flux' or 'wan'")
    path = TINY / name if path is None else Path(path)
    files = find_parts(path, name, parts, told)
    if None in files.values():
        raise FileNotFoundError(f"{path}: {missing_parts(path, name, files)}")
    return {part: file for part, file in files.items() if file}


def find_parts(
    path: Path,
    name: str,
    parts: Mapping[str, Where] | None = None,
    told: bool = False,
) -> dict[str, Path | None]:
    """Where each part lies of the backbone in folder `path`, or around the transformer `path`.

    A transformer of another name is not guessed, for it may be another model's: it is named.
    parts: those that are named, wherever they lie. told: as in `backbone_files`. ValueError for a
    name that is no part's.
    """
    parts = parts or {}
    for part, file in parts.items():
        known = list(FAMILIES[name].places)
        if part not in known:
            raise ValueError(f"{part}: a {name} backbone has the parts {', '.join(known)}")
        if told and is_textual(part):
            raise ValueError(f"{file}: named as {part} beside a conditioning file: leave one out")
        if not Path(file).exists():
            raise FileNotFoundError(f"{file}: no such file or folder")
    folder = home(path)
    check_pipeline(path if path.is_file() else folder, FAMILIES[name])
    files: dict[str, Path | None] = {}
    for part in FAMILIES[name].places:
        if told and is_textual(part):
            continue
        if part in parts:
            files[part] = Path(parts[part])
            continue
        if part == name and path.is_file():
            files[part] = path
            continue
        files[part] = find(part, folder)
        if files[part] is None and part in KINDS and part != name:
            files[part] = search(KINDS[part], folder)
    encoder = files.get("umt5")
    if encoder and files["umt5 tokens"] is None and brought(encoder):
        files["umt5 tokens"] = encoder
    return files


def missing_parts(path: Path, name: str, files: dict[str, Path | None]) -> str:
    """What a backbone lacks and the command that downloads it; "" when it is whole."""
    missing = [part for part, file in files.items() if file is None]
    if not missing:
        return ""
    family, folder, file = FAMILIES[name], home(path), files.get(name)
    if file is None and family_of(folder) not in ("", name):
        return f"holds a {family_of(folder)} backbone, expected a {name} backbone"
    lacks = []
    for part in missing:
        words, *spots = family.places[part]
        lacks.append(f"{words} ({' or '.join(spots)})")
        alone = (folder / spots[0]).with_name("tokenizer.json")
        if part not in KINDS and alone.is_file():
            lacks[-1] += ", which tokenizer.json does not hold"
    told = f"missing {', '.join(lacks)}"
    if name in missing:
        found = lookalikes(KINDS[name], folder, SHARED)
        if found:
            names = " or ".join(str(other.relative_to(folder)) for other in found[:3])
            told += f"; {names} looks like the {KINDS[name].words}: name it"
            missing.remove(name)
        elif ggufs := sorted(folder.rglob("*.gguf")):
            told += f"; {ggufs[0].relative_to(folder)} is a GGUF file, which is not supported"
    if not missing:
        return told
    variant = family.variant(open_part(name, file).config if file else None)
    command = f"hf download {family.repository.format(variant)} --local-dir {folder}"
    for part in missing:
        top = family.places[part][1].split("/")[0].replace("*", variant)
        command += f' --include "{top}"' if "." in top else f' --include "{top}/*"'
    told += f"; get {'the rest' if 'looks like' in told else 'it'} with: {command}"
    if file and all(is_textual(part) for part in missing):
        told += " (or name a --conditioning file, which somebody who has them can write)"
    return told
