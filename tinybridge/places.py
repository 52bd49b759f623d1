"""Where the parts of a backbone lie in its folder, and how to get those that are missing."""

import json
from pathlib import Path
from typing import Any

PLACES = {  # part of a backbone: in words, where it lies in the folder (the first that exists)
    "flux": ("FLUX transformer", "flux1-*.safetensors", "transformer"),
    "flux_vae": ("FLUX autoencoder", "ae.safetensors", "vae"),
    "clip": ("CLIP text model", "text_encoder", "clip_l.safetensors"),
    "t5": ("T5 encoder", "text_encoder_2", "t5xxl*.safetensors"),
    "clip tokens": ("CLIP tokenizer", "tokenizer/vocab.json"),
    "t5 tokens": ("T5 tokenizer", "tokenizer_2/spiece.model"),
}


def find(part: str, path: Path) -> Path | None:
    """Where a part of the backbone folder `path` lies, None when it is not there.

    ValueError where two files could be meant.
    """
    words, *patterns = PLACES[part]
    for pattern in patterns:
        hits = sorted(path.glob(pattern))
        if len(hits) > 1:
            names = ", ".join(hit.name for hit in hits)
            raise ValueError(f"{path}: more than one {words} ({names}): name one of them")
        if hits:
            return hits[0]
    return None


def backbone_parts(path: Path) -> dict[str, Path | None]:
    """Where each part lies of the backbone in folder `path`, or around the transformer `path`."""
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file or folder")
    if path.is_file():
        around = {part: find(part, path.parent) for part in PLACES if part != "flux"}
        return {"flux": path} | around
    return {part: find(part, path) for part in PLACES}


def advice(path: Path, missing: list[str], model: str) -> str:
    """What the backbone at `path` lacks, and the command that downloads it.

    model: "dev" or "schnell", whose repository it comes from.
    """
    lacks = ", ".join(f"{PLACES[part][0]} ({' or '.join(PLACES[part][1:])})" for part in missing)
    folder = path.parent if path.is_file() else path
    command = f"hf download black-forest-labs/FLUX.1-{model} --local-dir {folder}"
    for part in missing:
        top = PLACES[part][1].split("/")[0].replace("*", model)
        command += f' --include "{top}"' if "." in top else f' --include "{top}/*"'
    return f"missing {lacks}; get it with: {command}"


def read_json(file: Path) -> dict[str, Any]:
    """The dictionary in a JSON file, empty where there is no file; ValueError names a bad one."""
    if not file.is_file():
        return {}
    try:
        return dict(json.loads(file.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise ValueError(f"{file}: not a JSON dictionary ({error}): download it again") from None
