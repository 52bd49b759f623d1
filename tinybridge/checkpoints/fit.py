"""Parts of a backbone compared with each other by their headers, before a value is read."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tinybridge.backbone import Backbone
from tinybridge.checkpoints.conditioning import tokenizer
from tinybridge.checkpoints.layout import Family
from tinybridge.checkpoints.load import Opened

TOKENIZERS = {"t5 tokens": "t5", "clip tokens": "clip", "umt5 tokens": "umt5"}
UNUSED = 1024  # rows of an embedding that no id reaches: published ones are padded by 84 at most


def check_fit(family: Family, models: dict[str, Opened], files: dict[str, Path]) -> None:
    """ValueError with both files and both numbers where two parts are not of one backbone.

    models: the parts that are there, opened. files: where every part lies, tokenizers too.
    """
    whole = models.get(family.name)
    for fit in family.fits:
        part = models.get(fit.part)
        if whole is None or part is None:
            continue
        gives = fit.times * getattr(part.config, fit.gives)
        takes = getattr(whole.config, fit.takes)
        if gives != takes:
            raise ValueError(
                f"{part.checkpoint.path}: this {part.kind.words} gives "
                f"{fit.words.format(gives)}, but {whole.checkpoint.path}, the "
                f"{whole.kind.words}, takes {takes}: take both from one model"
            )
    for name, encoder in TOKENIZERS.items():
        if name in files and encoder in models:
            check_vocabulary(name, files[name], models[encoder])


def check_prompts(
    backbone: Backbone, prompts: Sequence[Any], files: Sequence[Path], place: object
) -> None:
    """ValueError with a prompt's file and a backbone's place where the two do not fit.

    backbone: of headers is enough. prompts: of either space, as their `files` hold them.
    """
    for file, prompt in zip(files, prompts, strict=True):
        try:
            backbone.check(prompt)
        except ValueError as error:
            raise ValueError(f"{file}: {error} ({place})") from None


def check_vocabulary(name: str, file: Path, encoder: Opened) -> None:
    """ValueError unless the embedding has a row for every id of a tokenizer, and few beyond."""
    tokens, rows = tokenizer(name, file), encoder.config.vocab_size
    if not tokens.size <= rows <= tokens.size + tokens.extra_ids + UNUSED:
        raise ValueError(
            f"{file}: this tokenizer's vocabulary is of {tokens.size}, but the embedding of "
            f"{encoder.checkpoint.path}, the {encoder.kind.words}, of {rows}: take both from one "
            "model"
        )
