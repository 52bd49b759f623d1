"""What a config.json, or the config in a file's metadata, says of a model: checked, in our names.

Every value that is read must be of its field's kind and range, and what says of a part that it is
another model's is believed. Fields that no row names are never read and may hold anything.
"""

import json
import math
import reprlib
from collections.abc import Callable
from dataclasses import Field, fields
from pathlib import Path
from typing import Any

from tinybridge.checkpoints.layout import Kind
from tinybridge.checkpoints.tensors import IMPOSTORS, Checkpoint

MOST = 1 << 62  # what torch can count; load.py holds numbers of layers against the header
ZERO = ("depth_single", "eos_token_id")  # whole numbers that may be 0; the others are sizes
ANY_SIGN = ("shift_factor", "mean")  # numbers that need not be positive
WEIGHTS = (".safetensors", ".sft", ".pth", ".pt", ".bin", ".ckpt", ".gguf")


def read_config(kind: Kind, checkpoint: Checkpoint) -> dict[str, Any]:
    """Fields of a kind's config by the config.json beside a checkpoint, over it by its metadata.

    ValueError in one line that names the file, the field and the value where one cannot be.
    """
    folder = checkpoint.path if checkpoint.path.is_dir() else checkpoint.path.parent
    file = folder / "config.json"
    others = [
        other.name
        for other in folder.iterdir()
        if other.suffix in WEIGHTS and other not in checkpoint.handles
    ]
    alone = checkpoint.path.is_dir() or not others
    found = published(kind, read_json(file), str(file), alone)
    source = f"{checkpoint.path}: config in its metadata"
    try:
        told = json.loads(checkpoint.metadata.get("config", "{}"))
    except (ValueError, RecursionError):
        raise ValueError(f"{source}: not readable as JSON") from None
    if not isinstance(told, dict):
        raise ValueError(f"{source}: expected a dictionary, found {reprlib.repr(told)}")
    return found | published(kind, told, source, True)


def read_json(file: Path) -> dict[str, Any]:
    """The dictionary in a JSON file, empty where there is no file; ValueError names a bad one."""
    if not file.is_file():
        return {}
    try:
        told = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        with file.open("rb") as stream:
            start = stream.read(64).lstrip()
        found = [words for magic, words in IMPOSTORS if start.startswith(magic)]
        reason = found[0] if found else f"not a JSON dictionary ({error}): download it again"
        raise ValueError(f"{file}: {reason}") from None
    if not isinstance(told, dict):
        raise ValueError(f"{file}: not a JSON dictionary, found {reprlib.repr(told)}")
    return told


def published(kind: Kind, config: dict[str, Any], source: str, alone: bool) -> dict[str, Any]:
    """A published config with our field names. ValueError for values that cannot be.

    alone: it is this model's and no other's. Where many models lie in one folder it is empty for
    the config of another one of them.
    """
    name = config.get("_class_name") or config.get("model_type")
    if name is not None and name not in kind.classes:
        if alone:
            raise ValueError(f"{source}: is of {name!r}, a {kind.classes[0]} is expected")
        return {}
    if "text_config" in config:  # openai's CLIP holds two models
        inner = config["text_config"]
        if not isinstance(inner, dict):
            raise ValueError(f"{source}: text_config is {reprlib.repr(inner)}, no dictionary")
        config = config | inner
    check(kind, config, source)
    result = dict(config)
    for ours, theirs in kind.fields.items():
        if theirs in config:
            result[ours] = config[theirs]
    if "attention_head_dim" in config:
        result["hidden_size"] = config["num_attention_heads"] * config["attention_head_dim"]
    if "block_out_channels" in config:
        widths = config["block_out_channels"]
        result |= {"ch": widths[0], "ch_mult": [width // widths[0] for width in widths]}
    known = {field.name for field in fields(kind.config)}
    return {
        key: tuple(value) if isinstance(value, list) else value
        for key, value in result.items()
        if key in known
    }


# ------------------------------------------------------------------------------------- values


def check(kind: Kind, config: dict[str, Any], source: str) -> None:
    """ValueError for the first value that is read and cannot be, or is that of another model."""
    for key, values in kind.expected.items():
        if key in config and config[key] not in values:
            raise ValueError(
                f"{source}: {key} is {reprlib.repr(config[key])}, as in another model; "
                f"{kind.words} is computed with {values[0]!r}"
            )
    for key, values in kind.others.items():
        for value, words in values.items():
            if config.get(key) == value:
                raise ValueError(f"{source}: {key} is {value}, that of {words}: not a {kind.words}")
    rules = {"block_out_channels": ("a list of positive whole numbers", listed(size))}
    if "attention_head_dim" in config:
        rules["attention_head_dim"] = ("a positive whole number", size)
        config = {"num_attention_heads": None} | config
        rules["num_attention_heads"] = ("a positive whole number", size)
    for field in fields(kind.config):
        rules[field.name] = rule(field)
        rules[kind.fields.get(field.name, field.name)] = rule(field)
    for key, (words, fits) in rules.items():
        if key in config and not fits(config[key]):
            raise ValueError(f"{source}: {key} is {reprlib.repr(config[key])}, expected {words}")


def rule(field: Field) -> tuple[str, Callable[[Any], bool]]:
    """What a value of one of our config's fields must be: in words, and as a test."""
    number = finite if field.name in ANY_SIGN else positive
    sign = "" if field.name in ANY_SIGN else "positive "
    if field.type is bool:
        return "true or false", truth
    if field.type is int:
        if field.name in ZERO:
            return "a whole number", count
        return "a positive whole number", size
    if field.type is float:
        return f"a {sign}number", number
    if field.type == tuple[bool, ...]:
        return "a list of true and false", listed(truth)
    if field.type == tuple[int, ...]:
        return "a list of positive whole numbers", listed(size)
    return f"a list of {sign}numbers", listed(number)


def truth(value: Any) -> bool:
    return isinstance(value, bool)


def count(value: Any) -> bool:
    return isinstance(value, int) and not truth(value) and 0 <= value <= MOST


def size(value: Any) -> bool:
    return count(value) and value > 0


def finite(value: Any) -> bool:
    return isinstance(value, int | float) and not truth(value) and math.isfinite(value)


def positive(value: Any) -> bool:
    return finite(value) and value > 0


def listed(fits: Callable[[Any], bool]) -> Callable[[Any], bool]:
    """The test of a list whose every value passes a test; an empty one does not."""

    def all_fit(value: Any) -> bool:
        return isinstance(value, list) and bool(value) and all(fits(inner) for inner in value)

    return all_fit
