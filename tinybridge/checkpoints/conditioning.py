"""What the text encoders make of a text, once: ids, encoders one at a time, a cache on disk."""

import html
from pathlib import Path

import torch
from torch import Tensor

from tinybridge.checkpoints.cache import cached
from tinybridge.checkpoints.layout import read_json
from tinybridge.checkpoints.load import Device, Opened, build
from tinybridge.text.tokenizers import ClipTokens, T5Tokens

ENCODERS = ("t5", "clip", "umt5")


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
