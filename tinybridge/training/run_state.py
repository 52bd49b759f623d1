"""What a training run leaves on disk so that it goes on bit for bit: state.safetensors.

The state is the prompt, AdamW's two moments of each of its tensors, the step, and the settings
that a continued run must share. Random numbers need no state: they are functions of (seed, step).
"""

import json
from pathlib import Path
from tempfile import TemporaryFile

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import nn

from tinybridge.data.tables import replacing

STATE = "state.safetensors"


def save_state(
    out: Path, model: nn.Module, optimizer: torch.optim.Optimizer, step: int, settings: dict
) -> None:
    """Writes out/state.safetensors: `step` steps are done. settings: values that str() tells."""
    tensors = {}
    for name, weight in model.named_parameters():
        tensors[name] = weight.detach().cpu()
        for key, value in optimizer.state[weight].items():  # exp_avg, exp_avg_sq, step
            tensors[f"{name}.{key}"] = value.cpu()
    kept = json.dumps({key: str(value) for key, value in settings.items()})
    with replacing(out / STATE) as scratch:
        scratch.write_bytes(save(tensors, {"step": str(step), "settings": kept}))


def read_state(file: Path) -> tuple[int, dict[str, str], dict[str, torch.Tensor]]:
    """Step, settings and tensors of a state file; ValueError if it is not one."""
    try:
        with safe_open(file, "pt") as stored:
            told, names = stored.metadata(), list(stored.keys())
            tensors = {name: stored.get_tensor(name) for name in names}
        return int(told["step"]), json.loads(told["settings"]), tensors
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{file}: not a readable state of a run ({error})") from None


def load_state(
    out: Path, model: nn.Module, optimizer: torch.optim.Optimizer, settings: dict
) -> int:
    """Puts a saved run back into model and optimizer; how many steps it had done.

    FileNotFoundError if there is none, ValueError if it was begun with other settings.
    """
    file = out / STATE
    if not file.is_file():
        raise FileNotFoundError(f"{file}: nothing to resume; leave --resume out to begin")
    step, kept, tensors = read_state(file)
    for key, value in settings.items():
        if kept.get(key) != str(value):
            name = "--" + key.replace("_", "-")
            raise ValueError(
                f"{file}: the run was begun with {name} {kept.get(key)}, now it is {value}; "
                "resume with the same settings, or begin in another --out"
            )
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight.copy_(tensors[name])
            for key in ("step", "exp_avg", "exp_avg_sq"):
                if (value := tensors.get(f"{name}.{key}")) is not None:
                    # AdamW counts its steps on the CPU wherever the weights are.
                    optimizer.state[weight][key] = value if key == "step" else value.to(weight)
    return step


def begin(out: Path) -> None:
    """Makes the folder of a new run. ValueError if an unfinished run lies there."""
    out.mkdir(parents=True, exist_ok=True)
    if (out / STATE).is_file():
        done, settings, _ = read_state(out / STATE)
        if done < int(settings.get("steps", 0)):
            raise ValueError(
                f"{out}: an unfinished run of {settings['steps']} steps lies here, {done} done; "
                "go on with --resume, or choose another --out, or delete it"
            )
    try:
        with TemporaryFile(dir=out):  # tells now, not after the first save
            pass
    except OSError as error:
        raise OSError(f"{out}: cannot be written ({error.strerror})") from None
