"""What the text encoders make of a text, once: ids, encoders one at a time, a cache on disk."""

import html
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tinybridge.checkpoints.cache import cached, place
from tinybridge.checkpoints.configs import read_json
from tinybridge.checkpoints.load import Device, Opened, build
from tinybridge.checkpoints.tensors import open_checkpoint
from tinybridge.text.tokenizers import ClipTokens, T5Tokens

ENCODERS = ("t5", "clip", "umt5")
BROUGHT = "spiece_model"  # the name of that tensor
EXTRA_IDS = {"t5 tokens": 100, "umt5 tokens": 300}  # that follow the pieces, unless a file says so
MOST = 100_000  # of them: each is looked for in a text


# ---- tokenizers --------------------------------------------------------------------------------


def tokenizer(part: str, file: Path, longest: int = 512) -> T5Tokens | ClipTokens:
    """The tokenizer `part` from its file, or from UMT5's weights where they bring it.

    longest: rows that T5 or UMT5 gets at most; a tokenizer_config.json beside may say fewer.
    ValueError or OSError that names the file.
    """
    if part == "clip tokens":
        return ClipTokens(file.parent)
    beside = file.with_name("tokenizer_config.json")
    settings = read_json(beside)
    length = min(longest, whole(settings, "model_max_length", longest, 1, beside))
    extra_ids = whole(settings, "extra_ids", EXTRA_IDS[part], 0, beside)
    if extra_ids > MOST:
        raise ValueError(f"{beside}: extra_ids is {extra_ids}, expected {MOST} at most")
    return T5Tokens(file, length, extra_ids, brought(file))


def whole(settings: dict[str, Any], key: str, usual: int, least: int, file: Path) -> int:
    """A whole number of a tokenizer's settings, `usual` where they do not name it."""
    value = settings.get(key, usual)
    number = isinstance(value, int | float) and not isinstance(value, bool)
    # transformers writes 1e30 for "no limit", with or without a point
    if not (number and float(value).is_integer() and value >= least):
        raise ValueError(f"{file}: {key} is {value!r}, expected a whole number from {least} on")
    return int(value)


def brought(file: Path) -> bytes | None:
    """The sentencepiece model that ComfyUI's UMT5 file brings as a tensor; None: none."""
    if file.suffix not in (".safetensors", ".sft") or not file.is_file():
        return None
    handle = open_checkpoint(file).handles[file]
    if BROUGHT not in handle.keys():  # noqa: SIM118, it is no dictionary
        return None
    return handle.get_tensor(BROUGHT).numpy().tobytes()


# ---- texts -------------------------------------------------------------------------------------


def token_ids(files: dict[str, Path], texts: list[str], longest: int) -> Tensor:
    """T5's or UMT5's ids of n texts [n, L]; L: the tokenizer's model_max_length, or `longest`."""
    part = "umt5 tokens" if "umt5 tokens" in files else "t5 tokens"
    if part == "umt5 tokens":  # as the vendor cleans them, but for mended encodings
        texts = [" ".join(html.unescape(html.unescape(text)).split()) for text in texts]
    return tokenizer(part, files[part], longest)(texts)


def text_conditioning(
    files: dict[str, Path],
    models: dict[str, Opened],
    texts: list[str],
    longest: int,
    device: Device,
    offload: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """The rows of n texts [n, L, Dc] and CLIP's summaries [n, Dp], float32: cached on disk.

    The encoders among `models` are filled only where these texts have not met these files before
    (cache.py), and one at a time; offload: T5 or UMT5 streams, see offload.py. On the device "meta"
    there are shapes alone.
    """
    ids = token_ids(files, texts, longest)  # [n, L]
    name = "wan" if "umt5" in models else "flux"
    encoder = models["umt5" if name == "wan" else "t5"]
    if torch.device(device).type == "meta":
        context = torch.empty(*ids.shape, encoder.config.d_model, device="meta")  # [n, L, Dc]
        if name == "wan":
            return context, None
        return context, torch.empty(len(texts), models["clip"].config.hidden_size, device="meta")
    if ids.max() >= encoder.config.vocab_size:
        raise ValueError(
            f"{encoder.checkpoint.path}: its embedding has {encoder.config.vocab_size} rows, but "
            f"the text has a token of id {int(ids.max())}: leave that word out"
        )
    encode = wan_text if name == "wan" else flux_text
    marks = cache_marks(files, models, texts, ids)
    kept = cached(*marks, lambda: encode(files, models, texts, ids, device, offload))
    return kept["context"], kept.get("pooled")


def cache_marks(
    files: dict[str, Path], models: dict[str, Opened], texts: list[str], ids: Tensor
) -> tuple[str, list[Path], dict[str, str | int]]:
    """What the conditioning of n texts depends on, as `cached` takes it. ids [n, L]."""
    read = [file for part in ENCODERS if part in models for file in models[part].files()]
    for part, file in files.items():
        if part.endswith("tokens"):
            beside = [file.with_name(other) for other in ("merges.txt", "tokenizer_config.json")]
            read += [file, *(other for other in beside if other.is_file())]
    told = {"text": "\0".join(texts), "length": ids.shape[1]}
    return "wan" if "umt5" in models else "flux", read, told


def encoders_to_read(
    files: dict[str, Path],
    models: dict[str, Opened],
    texts: list[str],
    longest: int,
    offload: bool = False,
) -> list[nn.Module]:
    """The encoders, of headers, that `text_conditioning` fills: none where the cache has it."""
    file, _ = place(*cache_marks(files, models, texts, token_ids(files, texts, longest)))
    if file.is_file():
        return []
    found = [part for part in ENCODERS if part in models]
    return [build(models[p], "meta", None, offload=offload and p != "clip") for p in found]


def flux_text(
    files: dict[str, Path],
    models: dict[str, Opened],
    texts: list[str],
    ids: Tensor,
    device: Device,
    offload: bool,
) -> dict[str, Tensor]:
    """T5's rows of n texts, those of the padding too, and CLIP's summaries. ids [n, L]: T5's."""
    t5 = build(models["t5"], device, None, offload=offload)
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
    offload: bool,
) -> dict[str, Tensor]:
    """UMT5's rows of the true tokens of n texts, then zeros. ids [n, L]: UMT5's."""
    end = (ids != 0).int().cumsum(1).argmax(1, keepdim=True)  # [n, 1], the last true token
    mask = (torch.arange(ids.shape[1]) <= end).to(device)  # [n, L]
    umt5 = build(models["umt5"], device, None, offload=offload)
    context = umt5(ids.to(device), mask)  # [n, L, Dc]
    return {"context": context.float() * mask[..., None]}
