"""The learned prompt, in either of two spaces, and its files.

Everything that training changes is in here. Embedding space, the paper's: one residual P [L, D]
for all blocks and one scalar gate per block, [n]; what a block does with them stands in flux.py
and wan.py. Token space, which the paper finds too small: the input embeddings [L, Dt] of the
frozen text encoder. All float32.

Ours are .safetensors files with metadata; the authors' are .pt files (arXiv 2604.04924,
`deep_prompt_bank` and `alphas`), read without executing pickled code.
"""

import os
import pickle
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
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
        """Reads our .safetensors, of either space, or the authors' .pt.

        FileNotFoundError if there is none; ValueError, in one line with the file's name, for a
        file that is truncated, holds something else, would execute code, or is not finite.
        """
        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(f"{path}: no such prompt file")
        try:
            read = _read_authors if path.suffix in (".pt", ".pth") else _read_ours
            return read(path)
        except SafetensorError as error:
            raise ValueError(f"{path}: not a readable safetensors file ({error})") from None
        except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
            reason = str(error).splitlines()[0] if str(error) else "it ends too early"
            raise ValueError(f"{path}: not a readable prompt file ({reason})") from None
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None

    def save(self, path: str | Path) -> None:
        """Writes .safetensors with `meta` as metadata, all or nothing."""
        _write(self, Path(path))

    def check(
        self, name: str, length: int, width: int, blocks: int, text_width: int | None = None
    ) -> None:
        """ValueError naming both sides unless the prompt fits a backbone of these sizes."""
        of = self.meta.get("backbone", name)
        mine = (of, *self.residual.shape, len(self.gates))
        if mine != (name, length, width, blocks):
            form = "{} with {} rows of width {} and {} gates"
            raise ValueError(
                f"prompt is for {form.format(*mine)}, but this backbone is "
                f"{form.format(name, length, width, blocks)}; load the weights it was trained on"
            )


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

    def check(
        self, name: str, length: int, width: int, blocks: int, text_width: int | None = None
    ) -> None:
        """ValueError naming both sides unless it fits; text_width: Dt, where it is known."""
        mine = (self.meta.get("backbone", name), *self.tokens.shape)
        if mine != (wanted := (name, length, text_width or mine[2])):
            form = "{} with {} tokens of width {}"
            raise ValueError(
                f"prompt is for {form.format(*mine)}, but this backbone is "
                f"{form.format(*wanted)}; load the weights it was trained on"
            )


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
    ValueError naming two that differ, or one whose t0 is no number.
    """
    names = names or [f"prompt {k}" for k in range(1, len(prompts) + 1)]
    first: dict[str, str] = {}
    for name, prompt in zip(names, prompts, strict=True):
        mine = {key: prompt.meta.get(key, usual) for key, usual in UNSAID.items()}
        mine["space"] = prompt.space
        first = first or mine
        for key, value in mine.items():
            if value != first[key]:
                raise ValueError(
                    f"{name} was trained with {key} {value}, {names[0]} with {first[key]}: "
                    "only prompts that share it can be mixed"
                )
    try:
        t0 = float(first["t0"])
    except ValueError:
        raise ValueError(f"{names[0]}: its t0 is {first['t0']!r}, a number is expected") from None
    return Agreed(first["bridge"], t0, first["grid"] == "true", first["space"])


def _parameter(name: str, tensor: Tensor) -> nn.Parameter:
    """Trainable float32 of its own. ValueError for values that are not finite."""
    if not tensor.isfinite().all():
        bad = int((~tensor.isfinite()).sum())
        raise ValueError(
            f"prompt has {bad} NaN or infinite values in its {name}: it is damaged, or "
            "its training diverged; take an earlier one"
        )
    return nn.Parameter(tensor.detach().float().clone())


def _write(prompt: Prompt | Tokens, path: Path) -> None:
    scratch = path.with_name(path.name + ".tmp")
    tensors = {k: v.detach().cpu().contiguous() for k, v in prompt.state_dict().items()}
    try:
        save_file(tensors, scratch, {"format": "pt", **prompt.meta})
        os.replace(scratch, path)
    except (OSError, SafetensorError) as error:
        with suppress(OSError):
            scratch.unlink()
        raise OSError(f"{path}: cannot be written ({error})") from None


def _read_ours(path: Path) -> Prompt | Tokens:
    with safe_open(path, framework="pt") as file:
        names, meta = set(file.keys()), dict(file.metadata() or {})
        if names == {"tokens"}:
            return Tokens(file.get_tensor("tokens"), meta)
        if names != {"residual", "gates"}:
            found = ", ".join(sorted(names)[:3])
            raise ValueError(f"no prompt: tensors residual and gates expected, found {found}")
        return Prompt(file.get_tensor("residual"), file.get_tensor("gates"), meta)


def _read_authors(path: Path) -> Prompt:
    bank = torch.load(path, weights_only=True, map_location="cpu")
    try:
        prompts, alphas = bank["deep_prompt_bank"]["prompts"], bank["alphas"]
        residual = prompts.squeeze(0)  # [L, D]
        gates = torch.stack([torch.as_tensor(alpha) for alpha in alphas]).flatten()  # [n]
        meta = {"backbone": str(bank["backend"]), "bridge": "desired", "t0": "0.4", "grid": "true"}
    except (KeyError, TypeError, AttributeError, IndexError):
        raise ValueError(
            "no prompt of the authors: a dictionary with backend, deep_prompt_bank and alphas "
            "is expected"
        ) from None
    return Prompt(residual, gates, meta)
