"""How a check answers: one sentence that begins with "Right." or with "Not yet:"."""

import torch
from torch import Tensor

BLANK = (
    "Not yet: the blank is still there, or a function returns nothing; put your answer where the "
    "three dots are."
)


def right(said: str) -> str:
    return f"Right. {said}"


def not_yet(said: str) -> str:
    return f"Not yet: {said}"


def is_blank(*answers: object) -> bool:
    """Whether one of them, or a part of it, is still the three dots or nothing."""
    parts: list[object] = []
    for answer in answers:
        parts += answer if isinstance(answer, tuple) else [answer]
    return any(part is ... or part is None for part in parts)


def number(answer: object) -> Tensor:
    """A float64 scalar of a number or tensor."""
    return torch.as_tensor(answer, dtype=torch.float64).detach()


def near(answer: object, wanted: object, slack: float = 1e-3) -> bool:
    """Whether two numbers are the same, to a thousandth unless `slack` says other."""
    return bool((number(answer) - number(wanted)).abs() <= slack)
