"""Trials of prompts, checkpoints and the JSON files beside them.

What is accepted is held against the file's own header, read here by its specification.
"""

import json
import os
import random
import struct
import traceback
from pathlib import Path

import numpy as np

import sample
import weights
from tests.torture import inputs, mutate
from tests.torture.doors import Verdicts, bundled, door, load_backbone, refusal
from tinybridge.prompt import Prompt

# ---- prompts -----------------------------------------------------------------------------------


def prompts(rng: random.Random, folder: Path, scratch: Path) -> Verdicts:
    """A prompt file, ours or the authors', spoilt or something else under its name."""
    model = bundled("flux")
    kind = rng.choice(("ours", "ours", "authors", "impostor"))
    if kind == "ours":
        file = folder / "p.safetensors"
        data = mutate.of_safetensors((scratch / "flux.safetensors").read_bytes(), rng)
    elif kind == "authors":
        file = folder / "p.pt"
        data = mutate.of_bytes(inputs.authors_prompt(model.length, model.width, model.blocks), rng)
    else:
        file = folder / rng.choice(("p.pt", "p.safetensors", "p.bin", "p"))
        data = rng.choice(sorted(inputs.impostors().values()))
    inputs.written(folder, {file.name: data, "a.png": inputs.pictures()["rgb.png"]})
    flags = ["--backbone", "flux", "--steps", 1, "--input", folder / "a.png"]
    status, told = door(sample.main, *flags, "--prompt", file, "--out", folder / "out")
    if status != 0:
        return [refusal(status, told)]
    if kind != "ours":
        return [("accepted", "")]
    try:
        header, values = mutate.split(data)
        rows = json.loads(header)
    except (ValueError, struct.error) as error:
        return [("wrong", f"accepted, though its header cannot be read: {error}")]
    stored = array(rows["residual"], values)
    if not np.array_equal(Prompt.load(file).residual.detach().numpy(), stored):
        return [("wrong", "another residual than the file holds")]
    told_t0 = (rows.get("__metadata__") or {}).get("t0", "0.4")
    if f"from t0 {float(told_t0)}" not in told:
        return [("wrong", f"t0 {told_t0}: {told[:200]}")]
    return [("accepted", "")]


# ---- checkpoints -------------------------------------------------------------------------------

LOAD = {
    "flux1-small.safetensors": weights.load_flux,
    "ae.safetensors": weights.load_flux_vae,
}


def array(row: dict, values: bytes) -> np.ndarray:
    """A tensor by its header's row: float32 or float16."""
    begin, end = row["data_offsets"]
    kind = {"F32": "<f4", "F16": "<f2", "F64": "<f8"}[row["dtype"]]
    return np.frombuffer(values[begin:end], kind).reshape(row["shape"])


def linked(source: Path, target: Path) -> Path:
    """A copy of a folder whose files are hard links."""
    for file in source.rglob("*"):
        if file.is_file():
            place = target / file.relative_to(source)
            place.parent.mkdir(parents=True, exist_ok=True)
            os.link(file, place)
    return target


def replaced(file: Path, data: bytes) -> None:
    """Other bytes under a linked file's name."""
    file.unlink()
    file.write_bytes(data)


def checkpoints(rng: random.Random, folder: Path, scratch: Path) -> Verdicts:
    """A model's file in a small vendor folder, spoilt; `inspect` and the loader."""
    whole = linked(scratch / "flux-vendor", folder / "model")
    file = whole / rng.choice(sorted(LOAD))
    data = file.read_bytes()
    if rng.random() < 0.1:
        data = rng.choice(sorted(inputs.impostors().values()))
    else:
        data = mutate.of_safetensors(data, rng)
    replaced(file, data)
    status, told = door(weights.main, "inspect", whole)
    if status == -1:
        return [("traceback", told.strip()[-400:])]
    try:
        model = LOAD[file.name](file)
    except (ValueError, OSError) as error:
        if "\n" in str(error).strip() or file.name not in str(error):
            return [("silent", f"not one line that names the file: {str(error)[:300]}")]
        return [("refused", str(error)[:200])]
    except BaseException:
        return [("traceback", traceback.format_exc()[-400:])]
    try:
        header, values = mutate.split(data)
        rows = json.loads(header)
        for name, tensor in model.state_dict().items():
            if not np.array_equal(tensor.numpy(), array(rows[name], values), equal_nan=True):
                return [("wrong", f"{name} is not what the file holds")]
    except (ValueError, KeyError, struct.error) as error:
        return [("wrong", f"accepted, though its header cannot be read so: {error!r}")]
    return [("accepted", "")]


CONFIGS = {  # file of the diffusers folder or of WAN's: loader, our field of theirs
    "transformer/config.json": (
        weights.load_flux,
        {
            "in_channels": "in_channels",
            "num_layers": "depth",
            "num_single_layers": "depth_single",
            "num_attention_heads": "num_heads",
            "joint_attention_dim": "context_dim",
            "pooled_projection_dim": "pooled_dim",
            "guidance_embeds": "guidance",
        },
    ),
    "vae/config.json": (
        weights.load_flux_vae,
        {"latent_channels": "z_channels", "norm_num_groups": "groups"},
    ),
    "text_encoder/config.json": (
        weights.load_clip,
        {"vocab_size": "vocab_size", "num_hidden_layers": "num_layers"},
    ),
    "text_encoder_2/config.json": (
        weights.load_t5,
        {"d_model": "d_model", "num_layers": "num_layers"},
    ),
    "tokenizer_2/tokenizer_config.json": (None, {}),
    "tokenizer/vocab.json": (None, {}),
    "text_encoder_2/model.safetensors.index.json": (weights.load_t5, {}),
}


def configs(rng: random.Random, folder: Path, scratch: Path) -> Verdicts:
    """A JSON file of a small diffusers folder, spoilt; `inspect`, the loader or the backbone."""
    whole = linked(scratch / "flux-diffusers", folder / "model")
    place = rng.choice(sorted(CONFIGS))
    load, fields = CONFIGS[place]
    file = whole / place
    text = mutate.of_json(file.read_text(), rng)
    replaced(file, text.encode("utf-8", "surrogateescape"))
    status, told = door(weights.main, "inspect", whole)
    if status == -1:
        return [("traceback", told.strip()[-400:])]
    try:
        if load is None:
            load_backbone("flux", whole)
            return [("accepted", "")]
        config = load(file.parent).config
    except (ValueError, OSError) as error:
        if "\n" in str(error).strip() or str(whole) not in str(error):
            return [("silent", f"not one line that names the file: {str(error)[:300]}")]
        return [("refused", str(error)[:200])]
    except BaseException:
        return [("traceback", f"{place}: {text[:100]} {traceback.format_exc()[-400:]}")]
    try:
        told_of = json.loads(text)
    except ValueError:
        return [("wrong", f"{place} accepted, though it is no JSON")]
    for theirs, ours in fields.items():
        if isinstance(told_of, dict) and theirs in told_of:
            value, mine = told_of[theirs], getattr(config, ours)
            if value != mine or isinstance(value, bool) != isinstance(mine, bool):
                return [("wrong", f"{place} says {theirs} {value!r}, the model has {mine!r}")]
    return [("accepted", "")]
