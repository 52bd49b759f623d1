"""Models of the same shapes that prompts were not learned on, told by what lies beside the tensors.

A pipeline or metadata that names another model refuses it; a name alone, which anyone may give to
a file, is worth one warning.
"""

import re
import sys
from pathlib import Path

from tinybridge.checkpoints.configs import read_json
from tinybridge.checkpoints.layout import Family, Kind

EXPECTED = "prompts are learned on WAN 2.1 T2V, which is expected here"


def check_pipeline(path: Path, family: Family) -> None:
    """ValueError where a folder, or one around it, is that of another pipeline."""
    for folder in (path, *path.parents[:2]):
        check_folder(folder, family)


def check_folder(folder: Path, family: Family) -> None:
    """`check_pipeline` of one folder."""
    file = folder / "model_index.json"
    told = read_json(file)
    name = told.get("_class_name")
    if name is not None and name not in family.pipelines:
        raise ValueError(f"{file}: is of a {name!r}, expected {family.pipelines[0]}")
    if family.name != "wan":
        return
    second = told.get("transformer_2")
    experts = told.get("boundary_ratio") is not None or (second and second != [None, None])
    if experts or (folder / "transformer_2").is_dir():
        raise ValueError(f"{folder}: WAN 2.2 with two experts (transformer_2); {EXPECTED}")
    if told.get("expand_timesteps"):
        raise ValueError(f"{folder}: WAN 2.2 TI2V (expand_timesteps); {EXPECTED}")
    if all((folder / f"{part}_noise_model").is_dir() for part in ("high", "low")):
        raise ValueError(f"{folder}: WAN 2.2 with two experts (high_noise_model); {EXPECTED}")


def check_names(kind: Kind, path: Path, metadata: dict[str, str]) -> None:
    """ValueError where metadata names a relative; one warning where only the file's name does."""
    told = metadata.get("modelspec.architecture", "")
    for pattern, words in kind.relatives.items():
        if re.search(pattern, told, re.IGNORECASE):
            raise ValueError(
                f"{path}: its metadata says {told!r}: {words}, expected a {kind.words}"
            )
    cached = [part for part in path.parts if part.startswith("models--")]
    folder = path if path.is_dir() else path.parent
    saved = str(read_json(folder / "config.json").get("_name_or_path", ""))
    title = metadata.get("modelspec.title", "")
    names = "/".join([*cached, *path.parts[-3:], saved, title])
    for pattern, words in kind.relatives.items():
        if re.search(pattern, names, re.IGNORECASE):
            print(
                f"warning: {path}: by its name it is {words}, which has the same tensors as the "
                f"model that prompts are learned on",
                file=sys.stderr,
            )
            return
