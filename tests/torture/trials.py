"""One trial: sound inputs beside spoilt ones, through the front doors, and what came of each.

A trial returns a verdict per spoilt input:
  accepted   it was used, and what its header tells is what came out
  refused    exit status 2, and one line that names it
  traceback  an exception that no user can read
  silent     neither used nor named
  wrong      used, but another size, shape or value than its header tells
  lost       a sound neighbour did not come out as it does alone
`isolation.py` adds "hang" (more than 10 s of processor time) and "crash" (a signal).
"""

import random
from collections.abc import Callable
from functools import partial
from pathlib import Path

from tests.torture.doors import Verdicts
from tests.torture.media import lists, media
from tests.torture.models import checkpoints, configs, prompts

KINDS: dict[str, Callable[[random.Random, Path, Path], Verdicts]] = {
    "pictures": partial(media, "pictures"),
    "clips": partial(media, "clips"),
    "lists": lists,
    "prompts": prompts,
    "checkpoints": checkpoints,
    "configs": configs,
}
