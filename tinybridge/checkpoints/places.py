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

PLACES_WAN = {  # the same of WAN 2.1: diffusers' folders, then the vendor's files
    "wan": (
        "WAN transformer",
        "transformer",
        "diffusion_pytorch_model.safetensors.index.json",
        "diffusion_pytorch_model.safetensors",
        "wan2.1_t2v_*.safetensors",
    ),
    "wan_vae": ("WAN autoencoder", "vae", "Wan2.1_VAE.pth", "wan_2.1_vae.safetensors"),
    "umt5": (
        "UMT5 encoder",
        "text_encoder",
        "models_t5_umt5-xxl-enc-*.pth",
        "*umt5*.safetensors",
    ),
    "umt5 tokens": ("UMT5 tokenizer", "tokenizer/spiece.model", "google/umt5-xxl/spiece.model"),
}


def find(part: str, path: Path) -> Path | None:
    """Where a part of the backbone folder `path` lies, None when it is not there.

    ValueError where two files could be meant.
    """
    words, *patterns = (PLACES | PLACES_WAN)[part]
    for pattern in patterns:
        hits = sorted(path.glob(pattern))
        if len(hits) > 1:
            names = ", ".join(hit.name for hit in hits)
            raise ValueError(f"{path}: more than one {words} ({names}): name one of them")
        if hits:
            return hits[0]
    return None


def backbone_parts(path: Path, name: str = "flux") -> dict[str, Path | None]:
    """Where each part lies of the backbone in folder `path`, or around the transformer `path`.

    name: "flux" or "wan", which is also the name of its transformer's part.
    """
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file or folder")
    places = PLACES_WAN if name == "wan" else PLACES
    if path.is_file():
        return {name: path} | {p: find(p, path.parent) for p in places if p != name}
    return {part: find(part, path) for part in places}


def advice(path: Path, missing: list[str], model: str) -> str:
    """What the backbone at `path` lacks, and the command that downloads it.

    model: "dev" or "schnell", "1.3B" or "14B", whose repository it comes from.
    """
    places = {part: (PLACES | PLACES_WAN)[part] for part in missing}
    lacks = ", ".join(f"{words} ({' or '.join(spots)})" for words, *spots in places.values())
    folder = path.parent if path.is_file() else path
    wan = missing[0] in PLACES_WAN
    source = f"Wan-AI/Wan2.1-T2V-{model}-Diffusers" if wan else f"black-forest-labs/FLUX.1-{model}"
    command = f"hf download {source} --local-dir {folder}"
    for part in missing:
        top = places[part][1].split("/")[0].replace("*", model)
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
