"""What tests of files and folders as people have them share."""

from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor

import weights
from tests.oracles import folders as make
from tests.oracles.folders import error_of
from tinybridge.checkpoints.flux import FLUX_TABLE

FLUX, VAE, CLIP, T5 = (model.state_dict() for model in make.models().values())
OTHER = make.to_other(FLUX, FLUX_TABLE, make.FLUX.hidden_size)  # FLUX in diffusers' layout


def wrapped(prefix: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A state with words before every name, in memory of its own."""
    return {prefix + name: tensor.clone() for name, tensor in state.items()}


def saved(folder: Path, state: dict[str, Tensor], metadata: dict[str, str] | None = None) -> Path:
    save_file(state, folder / "x.safetensors", metadata)
    return folder / "x.safetensors"


def inspect(capsys, path: Path) -> tuple[int, str]:
    """Exit status of `weights.py inspect`, and what was said: an error is one line."""
    status, told = weights.main(["inspect", str(path)]), capsys.readouterr()
    assert told.err.count("\n") == (status == 2) + told.err.count("warning: ")
    return status, told.out + told.err


def both(capsys, name: str, path: Path) -> str:
    """The refusal of `inspect` and of `load_backbone`, which both have to refuse."""
    status, told = inspect(capsys, path)
    assert status == 2
    return told + error_of(weights.load_backbone, name, path)
