"""Prompt files as the authors' training code leaves them, and backbones of any size to fit them.

The authors' released files are a dictionary of backend, deep_prompt_bank (the state_dict of a
module: an OrderedDict with a note of versions, its tensor stored as of the GPU cuda:0) and alphas
(a list of tensors without axes, stored as of the CPU). Values are drawn; the statistics of
`write_wan` are those of the released haze.
"""

from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import torch
from torch import Tensor, nn

from tests.oracles.official import SHARED
from tinybridge.backbone import Backbone

NAMES = ("wan_haze.pt", "wan_snow.pt")
RELEASED = [file for name in NAMES if (file := SHARED / "prompts" / name).is_file()]


def device_of(storage: torch.UntypedStorage) -> str:
    """What the released files say of where a storage was."""
    return "cuda:0" if storage.nbytes() > 8 else "cpu"


def write_authors(file: Path, residual: Tensor, gates: Tensor, backend: str = "flux") -> Path:
    """residual [L, D] and gates [n] as one of their files."""
    bank = nn.Module()
    bank.prompts = nn.Parameter(residual[None])  # [1, L, D]
    alphas = [gate.clone() for gate in gates]
    saved = {"backend": backend, "deep_prompt_bank": bank.state_dict(), "alphas": alphas}
    with mock.patch("torch.serialization.location_tag", device_of):
        torch.save(saved, file)
    return file


def write_wan(file: Path, seed: int = 0) -> Path:
    """One for WAN 2.1 1.3B, as large as the released ones: 226 rows of width 1536, 30 gates."""
    generator = torch.Generator().manual_seed(seed)
    residual = torch.randn(226, 1536, generator=generator)  # [226, 1536]
    residual *= 0.093214 / residual.std()
    gates = torch.linspace(-0.1218, 0.7739, 30)  # [30]
    return write_authors(file, residual, gates, "wan")


def sized(name: str, length: int, width: int, blocks: int, text_width: int = 8) -> Backbone:
    """A backbone that has a name and sizes and nothing else."""
    model = nn.Module()
    model.config = SimpleNamespace(hidden_size=width)
    model.blocks = [None] * blocks
    return Backbone(name, model, nn.Module(), torch.zeros(1, length, text_width))
