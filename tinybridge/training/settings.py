"""What a prompt is learned with: the settings of a run, and which of them cannot be."""

import math
from dataclasses import dataclass

from tinybridge import bridge

SPACES, LOSSES = ("embedding", "token"), ("x0", "velocity")


@dataclass(frozen=True)
class Settings:
    """What the result depends on, besides backbone and pairs. lr: of residual or tokens.

    A resumed run shares them all but for `every` and `micro_batch`, which change no result beyond
    rounding.
    """

    bridge: str = "desired"
    space: str = "embedding"  # of SPACES
    steps: int = 300
    batch_size: int = 16  # over all processes
    lr: float = 0.15
    t0: float = 0.4
    seed: int = 0
    loss: str = "x0"  # of LOSSES, see bridge.loss
    power: float = 1.0  # of the drawn times, see bridge.draw_times
    t_low: float = 1e-4  # the lowest of them; t0: that time alone
    every: int | None = None  # steps from one look at held-out pairs to the next; None: six looks
    micro_batch: int | None = None  # samples of a process at once, if memory is small; None: all


def check(settings: Settings, world: int = 1) -> None:
    """ValueError in one line for settings that `world` processes cannot learn with."""
    bridge.times(settings.t0)
    choices = {"bridge": tuple(bridge.BRIDGES), "space": SPACES, "loss": LOSSES}
    for name, known in choices.items():
        if getattr(settings, name) not in known:
            raise ValueError(
                f"no {name} {getattr(settings, name)!r} to learn with; choose {', '.join(known)}"
            )
    positive = (settings.steps, settings.batch_size, settings.lr, settings.power)
    if not all(0 < value < math.inf for value in positive) or settings.batch_size % world:
        raise ValueError(
            f"--steps {settings.steps}, --batch-size {settings.batch_size} and --lr {settings.lr} "
            f"must be positive, and the batch a multiple of the {world} processes"
        )
    if not 0 < settings.t_low <= settings.t0:
        raise ValueError(
            f"--t-low {settings.t_low} must be above 0 and at most --t0, {settings.t0}"
        )
    if settings.micro_batch is not None and settings.micro_batch < 1:
        raise ValueError(f"--micro-batch {settings.micro_batch} must be positive")
