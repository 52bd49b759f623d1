"""What a training run leaves on disk so that it goes on bit for bit: state.safetensors, log.csv.

The state is the prompt, AdamW's two moments of each of its tensors, the step, and the settings
that a continued run must share. Random numbers need no state: they are functions of (seed, step).
"""

import json
import os
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryFile

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from tinybridge.backbone import Backbone
from tinybridge.data.outputs import check_table
from tinybridge.data.tables import load_table, replacing
from tinybridge.training.settings import Settings

STATE, LOG = "state.safetensors", "log.csv"
RESULTS = ("results.csv", "preview.png")  # that a finished run leaves beside its prompt
MOMENTS = ("step", "exp_avg", "exp_avg_sq")  # that AdamW keeps of each tensor


def save_state(
    out: Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    step: int,
    settings: dict[str, object],
) -> None:
    """Writes out/state.safetensors: `step` steps are done. settings: values that str() tells."""
    tensors = {}
    for name, weight in model.named_parameters():
        tensors[name] = weight.detach().cpu().contiguous()
        for key, value in optimizer.state[weight].items():
            tensors[f"{name}.{key}"] = value.cpu().contiguous()
    kept = json.dumps({key: str(value) for key, value in settings.items()})
    with replacing(out / STATE) as scratch:
        scratch.write_bytes(save(tensors, {"step": str(step), "settings": kept}))


def read_state(file: Path) -> tuple[int, dict[str, str], dict[str, Tensor]]:
    """Step, settings and tensors of a state file; ValueError if it is not one."""
    try:
        content = file.read_bytes()  # safetensors opens no file whose name is not UTF-8
        tensors = load(content)
        header = content[8 : 8 + int.from_bytes(content[:8], "little")]
        meta = json.loads(header)["__metadata__"]
        return int(meta["step"]), dict(json.loads(meta["settings"])), tensors
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{file}: not a readable state of a run ({error})") from None


def find_state(out: Path) -> Path:
    """The state file of a run; FileNotFoundError if there is none."""
    file = out / STATE
    if not file.is_file():
        raise FileNotFoundError(f"{file}: nothing to resume; leave --resume out to begin")
    return file


def of_model(backbone: Backbone) -> dict[str, str]:
    """What a prompt remembers of its backbone."""
    return {"backbone": backbone.name, "grid": str(backbone.grid).lower()}


def shared(
    settings: Settings, backbone: Backbone, facts: dict[str, object] | None
) -> dict[str, object]:
    """What a run that is resumed must have in common with what it was."""
    same = asdict(settings) | of_model(backbone) | (facts or {})
    del same["every"], same["micro_batch"]
    return same


def check_settings(
    out: Path, settings: dict[str, object]
) -> tuple[int, dict[str, str], dict[str, Tensor]]:
    """What `read_state` gives; errors as in `load_state`, if it was begun with other settings."""
    file = find_state(out)
    step, kept, tensors = read_state(file)
    for key, value in settings.items():
        begun = kept.get(key, "None")  # an older state does not know newer flags
        if begun != str(value):
            name = "--" + key.replace("_", "-")
            raise ValueError(
                f"{file}: the run was begun with {name} {begun}, now it is {value}; "
                "resume with the same settings, or begin in another --out"
            )
    return step, kept, tensors


def load_state(
    out: Path, model: nn.Module, optimizer: torch.optim.Optimizer, settings: dict[str, object]
) -> tuple[int, dict[str, str]]:
    """Puts a saved run back into model and optimizer; its steps, and the settings saved with it.

    FileNotFoundError if there is none, ValueError if it was begun with other settings or is
    damaged; then nothing has been put anywhere.
    """
    step, kept, tensors = check_settings(out, settings)
    wanted = {}
    for name, weight in model.named_parameters():
        wanted[name] = weight.shape
        wanted |= {f"{name}.{key}": weight.shape for key in MOMENTS[1:]}
        wanted[f"{name}.step"] = torch.Size()
    found = {name: value.shape for name, value in tensors.items() if value.isfinite().all()}
    if found != wanted or step < 1:
        wrong = sorted(name for name in wanted if found.get(name) != wanted[name])
        raise ValueError(
            f"{out / STATE}: not the state of this prompt (step {step}; tensors that lack, or are "
            f"not finite or of its size: {', '.join(wrong[:3]) or 'none'}); begin in another --out"
        )
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight.copy_(tensors[name])
            for key in MOMENTS:
                value = tensors[f"{name}.{key}"]
                # AdamW counts its steps on the CPU wherever the weights are.
                optimizer.state[weight][key] = value if key == "step" else value.to(weight)
    return step, kept


def load_log(out: Path, done: int) -> list[dict[str, float]]:
    """The rows of out/log.csv, numbers, up to step `done`: a killed run may have logged more.

    Empty if there is no such file. ValueError if it is no log.
    """
    file = out / LOG
    rows = load_table(file) if file.is_file() else []
    if not all(isinstance(row.get("step"), int) for row in rows):
        raise ValueError(f"{file}: not the log of a run; move it away to go on without it")
    return [row for row in rows if row["step"] <= done]


def begin(out: Path, named: bool) -> str:
    """Makes the folder of a new run; what to say of an older one that it will replace, or "".

    named: the user chose this folder. ValueError if an unfinished run lies there, or where nobody
    chose it, a finished one, or files that are of no run; OSError if nothing can be written.
    """
    out.mkdir(parents=True, exist_ok=True)
    older = ""
    if (out / STATE).is_file():
        done, settings, _ = read_state(out / STATE)
        older = f"a finished run of {done} steps"
        if done < int(settings.get("steps", 0)):
            raise ValueError(
                f"{out}: an unfinished run of {settings['steps']} steps lies here, {done} done; "
                "go on with --resume, or choose another --out, or delete it"
            )
    elif (out / "prompt.safetensors").is_file():
        older = "a prompt"
    check_table(out / LOG, "step")
    for name in ("prompt.safetensors", STATE, *RESULTS):
        if os.path.isdir(out / name) or (not older and os.path.lexists(out / name)):
            raise ValueError(f"{out / name}: of no run, it would be replaced; choose another --out")
    if older and not named:
        raise ValueError(
            f"{out}: {older} lies here; choose another --out, or name this one to replace it"
        )
    try:
        with TemporaryFile(dir=out):  # tells now, not after the first save
            pass
    except OSError as error:
        raise OSError(f"{out}: cannot be written ({error.strerror})") from None
    return f"{out}: {older} will be replaced" if older else ""
