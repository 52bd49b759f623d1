"""The learned prompt, in either of two spaces, and its files.

Everything that training changes is in here. Embedding space, the paper's: one residual P [L, D]
for all blocks and one scalar gate per block, [n]; what a block does with them stands in flux.py
and wan.py. Token space, which the paper finds too small: the input embeddings [L, Dt] of the
frozen text encoder. All float32.

Ours are .safetensors files with metadata; the authors' are .pt files (arXiv 2604.04924,
`deep_prompt_bank` and `alphas`), read without executing pickled code.
"""

import json
import math
import os
import pickle
import re
import secrets
import warnings
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save
from torch import Tensor, nn


class Prompt(nn.Module):
    """P and gates as trainable parameters, with the facts they were trained under.

    residual [L, D] and gates [n], any float dtype, kept in float32. meta: strings such as
    backbone, bridge, t0, grid, steps, seed, version. ValueError for other shapes or values that
    are not finite.
    """

    space = "embedding"

    def __init__(self, residual: Tensor, gates: Tensor, meta: dict[str, str] | None = None):
        super().__init__()
        if residual.ndim != 2 or gates.ndim != 1:
            raise ValueError(
                f"prompt with residual {list(residual.shape)} and gates {list(gates.shape)}: "
                "[L, D] and [n] are expected"
            )
        self.residual = _parameter("residual", residual)
        self.gates = _parameter("gates", gates)
        self.meta = dict(meta or {})

    @classmethod
    def init(
        cls, length: int, width: int, blocks: int, seed: int, std: float = 0.02, gate: float = 1.0
    ) -> "Prompt":
        """Where training starts: P ~ N(0, std^2), every gate alike.

        With the authors' gate of 0 the first step could move the gates alone.
        """
        generator = torch.Generator().manual_seed(seed)
        residual = std * torch.randn(length, width, generator=generator)  # [L, D]
        return cls(residual, torch.full((blocks,), gate))

    @staticmethod
    def load(path: str | Path) -> "Prompt | Tokens":
        """A prompt of either space from a file: see `load`, which this is."""
        return load(path)

    def save(self, path: str | Path) -> None:
        """Writes .safetensors with `meta` as metadata, all or nothing."""
        _write(self, Path(path))


class Tokens(nn.Module):
    """The token-space twin: what stands in the place of the embedded words, [L, Dt].

    `meta` as in Prompt, which also reads and checks it in the same way.
    """

    space = "token"

    def __init__(self, tokens: Tensor, meta: dict[str, str] | None = None):
        super().__init__()
        if tokens.ndim != 2:
            raise ValueError(f"prompt with tokens {list(tokens.shape)}: [L, Dt] is expected")
        self.tokens = _parameter("tokens", tokens)
        self.meta = dict(meta or {})

    @classmethod
    def init(cls, words: Tensor, seed: int, noise: float = 0.02) -> "Tokens":
        """Where training starts: the null prompt's embeddings words [L, Dt], a little apart.

        Nearly all of them are one and the same padding token. Noise of 2 % of their size lets
        each row go a way of its own without leaving what the encoder knows.
        """
        generator = torch.Generator().manual_seed(seed)
        size = words.square().mean().sqrt().item()
        apart = torch.randn(words.shape, generator=generator).to(words)
        return cls(words + noise * size * apart)

    def save(self, path: str | Path) -> None:
        """Writes .safetensors with `meta` as metadata, all or nothing."""
        _write(self, Path(path))


# ---- what prompts were trained with ------------------------------------------------------------


class Agreed(NamedTuple):
    """What prompts were trained with, and so must be restored with."""

    bridge: str
    t0: float
    grid: bool  # the model is told the time on the authors' 1000-step grid
    space: str  # "embedding" or "token"


UNSAID = {"bridge": "desired", "t0": "0.4", "grid": "true"}  # by prompts without metadata


def agreed(prompts: Sequence[Prompt | Tokens], names: Sequence[object] | None = None) -> Agreed:
    """What all of one or more prompts were trained with; only such prompts can be mixed.

    names: what to call them in errors, their files for instance; None: prompt 1, prompt 2, ...
    ValueError naming two that differ, or one whose t0 or grid cannot be.
    """
    names = names or [f"prompt {k}" for k in range(1, len(prompts) + 1)]
    first = trained_with(prompts[0], names[0])
    for name, prompt in zip(names, prompts, strict=True):
        mine = trained_with(prompt, name)
        for key, value in mine._asdict().items():
            other = getattr(first, key)
            if value != other:
                raise ValueError(
                    f"{name} was trained with {key} {_spelled(value)}, {names[0]} with "
                    f"{_spelled(other)}: only prompts that share it can be mixed"
                )
    return first


def trained_with(prompt: Prompt | Tokens, name: object = "prompt") -> Agreed:
    """What the metadata of one prompt says; ValueError, with its name, for what cannot be.

    Which bridges there are is not known here. Other metadata (seed, steps, version, ...) is kept
    as it is and never read.
    """
    told = UNSAID | prompt.meta
    try:
        t0 = float(told["t0"])
    except (TypeError, ValueError):
        t0 = math.nan
    if not 0 < t0 < 1:
        raise ValueError(f"{name}: its t0 is {told['t0']!r}, a number between 0 and 1 is expected")
    if told["grid"] not in ("true", "false"):
        raise ValueError(f"{name}: its grid is {told['grid']!r}, true or false is expected")
    return Agreed(told["bridge"], t0, told["grid"] == "true", prompt.space)


def _spelled(value: str | float | bool) -> str:
    """As the metadata has it."""
    return str(value).lower() if isinstance(value, bool) else str(value)


# ---- files -------------------------------------------------------------------------------------

IMPOSTORS = (  # first bytes of what people have under a prompt's name
    (b"version https://git-lfs", "a git-lfs pointer, not the prompt: run git lfs pull"),
    (b"<", "a web page, not the prompt: the download went wrong"),
    (b"GGUF", "a GGUF file"),
)
LARGEST = 1 << 30  # bytes of a file that is worth reading; FLUX's prompt has 6 million
PICKLED = (b"PK\x03\x04", b"\x80")  # first bytes of what torch.save writes, now and formerly


def load(path: str | Path) -> Prompt | Tokens:
    """Reads our .safetensors, of either space, or the authors' .pt: told by content, not by name.

    FileNotFoundError if there is none; ValueError, in one line with the file's name, for a file
    that is truncated, holds something else, would execute code, is not finite, or whose metadata
    says of t0 or grid what cannot be.
    """
    path = Path(path)
    if not path.is_file():
        found = "a folder: name the file in it" if path.is_dir() else "no such prompt file"
        raise FileNotFoundError(f"{path}: {found}")
    size = path.stat().st_size
    if size > LARGEST:
        raise ValueError(f"{path}: expected a prompt of some MB, found {size:,} bytes: a model?")
    with path.open("rb") as file:
        start = file.read(64)
    ours = start[8:9] == b"{"  # after a length, whose bytes may be anything
    for magic, words in IMPOSTORS:
        if start.lstrip().startswith(magic) and not ours:
            raise ValueError(f"{path}: expected a prompt, found {words}")
    try:
        pickled = start.startswith(PICKLED) and not ours
        prompt = _read_authors(path) if pickled else _read_ours(path)
    except ValueError as error:  # which may quote names and more from the file
        reason = "".join(c if c.isprintable() else " " for c in str(error))
        raise ValueError(f"{path}: {reason}") from None
    trained_with(prompt, path)
    return prompt


def _parameter(name: str, tensor: Tensor) -> nn.Parameter:
    """Trainable float32 of its own. ValueError for other numbers and values that are not finite."""
    if not tensor.is_floating_point():
        raise ValueError(f"prompt with {name} of {tensor.dtype}: floating point is expected")
    values = tensor.detach().float().clone()
    if bad := int((~values.isfinite()).sum()):
        raise ValueError(
            f"prompt has {bad} NaN or infinite values in its {name}: it is damaged, or "
            "its training diverged; take an earlier one"
        )
    return nn.Parameter(values)


def _write(prompt: Prompt | Tokens, path: Path) -> None:
    tensors = {k: v.detach().cpu().contiguous() for k, v in prompt.state_dict().items()}
    content = save(tensors, {"format": "pt", **prompt.meta})
    # Not save_file, whose files nobody but their owner may read.
    scratch = path.with_name(f".{secrets.token_hex(8)}.tmp")
    try:
        scratch.write_bytes(content)
        os.replace(scratch, path)
    except OSError as error:
        raise OSError(f"{path}: cannot be written ({error.strerror})") from None
    finally:
        with suppress(OSError):
            scratch.unlink()


def _read_ours(path: Path) -> Prompt | Tokens:
    content = path.read_bytes()  # safe_open opens no file whose name is not UTF-8
    try:
        tensors = load_tensors(content)
    except (SafetensorError, KeyError) as error:  # damaged; a type that torch does not have
        raise ValueError(
            f"not a readable safetensors file ({error}), and none of torch.save: get it again"
        ) from None
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    meta = header.get("__metadata__") or {}
    if tensors.keys() == {"tokens"}:
        return Tokens(tensors["tokens"], meta)
    if tensors.keys() == {"residual", "gates"}:
        return Prompt(tensors["residual"], tensors["gates"], meta)
    found = ", ".join(sorted(tensors)[:3])
    raise ValueError(f"no prompt: tensors residual and gates expected, found {found or 'none'}")


def _read_authors(path: Path) -> Prompt:
    bank = _unpickled(path)
    try:
        prompts, alphas = bank["deep_prompt_bank"]["prompts"], bank["alphas"]
        residual = prompts.squeeze(0)  # [L, D]
        gates = torch.stack([torch.as_tensor(alpha) for alpha in alphas]).flatten()  # [n]
        meta = {"backbone": str(bank["backend"]), "bridge": "desired", "t0": "0.4", "grid": "true"}
    except (KeyError, TypeError, AttributeError, IndexError, RuntimeError):
        raise ValueError(
            "no prompt of the authors: a dictionary with backend, deep_prompt_bank and alphas "
            "is expected"
        ) from None
    return Prompt(residual, gates, meta)


def _unpickled(path: Path) -> object:
    """What torch.save wrote. Such a file is a program: nothing of it is run but making tensors.

    ValueError in words of our own: torch's advise to run the file after all.
    """
    try:
        with warnings.catch_warnings(action="ignore"), path.open("rb") as file:
            return torch.load(file, weights_only=True, map_location="cpu")  # a name has its say
    except pickle.UnpicklingError as error:
        name = re.search(r"GLOBAL ([\w.]+)", str(error))
        asks = f"asks for {name[1]}" if name else "is damaged, or not of torch.save"
        raise ValueError(f"a pickle that {asks}: refused, nothing of it was run") from None
    except Exception:  # damaged files make torch raise nearly anything, in many lines
        raise ValueError("a damaged or unknown PyTorch file: get it again") from None
