"""How a row is read: `Kind`, one model and its published files; its table, tensor name by name.

A table's row stands for a tensor family: our name (the vendor's), the other layout's, the rule.
`{}` is a number (layer, block), `{~}` the same number counted from the other end, `(a|b)` the parts
that a rule joins. What follows a row's name in a key (`.weight`, `.bias`, `.conv1.weight`) is
carried over unchanged, and the first row that fits wins. The rows are in flux.py and wan.py.
"""

import itertools
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

Table = tuple[tuple[str, str, str], ...]
Shape = Callable[[str, int], tuple[int, ...]]  # of our tensor name and its number of axes
Has = Callable[[str], bool]

RULES = {  # in the direction other layout -> ours
    "copy": "the tensor itself",
    "rows q|k|v": "the parts stacked along their rows, in this order",
    "rows q|k|v|mlp": "the same with a fourth part of another height",
    "swap halves": "[scale ; shift] becomes [shift ; scale]",
    "squeeze 1x1": "theirs is our 1x1 convolution's weight without the two 1s",
}


@dataclass(frozen=True)
class Signature:
    """The beginning of a tensor's name that gives a model and its layout away, and words for it."""

    start: str
    words: str


@dataclass(frozen=True)
class Kind:
    """One model, and all that is said of its published files.

    words: its name in messages. places: where it lies in a backbone's folder, the first that is
    there wins. own, other: how its two layouts are told; table: their names, and rows: the table
    of a config with other rows. sizes: fields of the config that shapes tell; classes: its names
    in a config.json, fields: our field <- theirs where they differ. ignored: beginnings of names
    that files hold beside it. twins: two names of one tensor, ours first. pickled: its .pth is
    read. float32: modules and parameters never narrower. half: can be computed in float16.
    endings: of names, as others spell them -> ours. counts: fields of the config that the file
    must have tensors for. relatives: patterns of file names -> the model with the same shapes.
    expected: what a config.json may say of how it is computed, if it says anything.
    others: values of a config.json that tell a model with the same shapes. blocks: where its blocks
    lie, in the order of their use, and ahead: beginnings of names of their linears that are read
    for all blocks before the first one runs (offload.py).
    """

    name: str
    words: str
    model: type[nn.Module]
    config: type
    places: tuple[str, ...]
    own: Signature
    other: Signature | None
    sizes: Callable[[Shape, Has], dict[str, Any]]
    classes: tuple[str, ...]
    fields: dict[str, str]
    table: Table = ()
    rows: Callable[[Any], Table] | None = None
    ignored: tuple[str, ...] = ()
    twins: tuple[str, ...] = ()
    pickled: bool = False
    float32: tuple[str, ...] = ()
    half: bool = True
    endings: dict[str, str] = field(default_factory=dict)
    counts: tuple[str, ...] = ()
    relatives: dict[str, str] = field(default_factory=dict)
    expected: dict[str, tuple[Any, ...]] = field(default_factory=dict)
    others: dict[str, dict[Any, str]] = field(default_factory=dict)
    blocks: str = ""
    ahead: tuple[str, ...] = ()


@dataclass(frozen=True)
class Fit:
    """A number that a part of a backbone gives and the transformer takes.

    words: what it is, around the number. gives, takes: fields of their configs; times: how often
    the part's.
    """

    part: str
    words: str
    gives: str
    takes: str
    times: int = 1


@dataclass(frozen=True)
class Family:
    """A backbone: its models, the transformer first, and its tokenizers.

    tokenizers: part -> its words, then where it lies. repository and variant: where official
    files come from, told by the transformer's config (None: not known). pipelines: what a
    model_index.json may say. fits: in what the parts must agree with the transformer.
    """

    name: str
    kinds: tuple[Kind, ...]
    tokenizers: dict[str, tuple[str, ...]]
    repository: str
    variant: Callable[[Any], str]
    pipelines: tuple[str, ...]
    fits: tuple[Fit, ...]

    @property
    def places(self) -> dict[str, tuple[str, ...]]:
        """Every part, models and tokenizers: its words, then where it lies."""
        return {kind.name: (kind.words, *kind.places) for kind in self.kinds} | self.tokenizers


# --------------------------------------------------------------------------------------- tables


def table(text: str) -> Table:
    """The rows of a text, one a line: our name, the other layout's, the rule (none: copy)."""
    rows = []
    for line in text.strip().splitlines():
        ours, theirs, *rule = line.split()
        rows.append((ours, theirs, " ".join(rule) or "copy"))
    return tuple(rows)


def plan(names: Iterable[str], table: Table | None) -> dict[str, tuple[list[str], str]]:
    """For each of our tensor names: the names it is read from in the other layout, and the rule.

    Without a table every name is read from itself. `{~}` counts from the highest number that
    `names` hold at that place: give all names of a model at once. KeyError: a name without row.
    """
    names = list(names)
    if table is None:
        return {name: ([name], "copy") for name in names}
    result: dict[str, tuple[list[str], str]] = {}
    for ours, theirs, rule in table:
        row = re.compile(re.escape(ours).replace(r"\{\}", r"(\d+)") + r"(\..+)?$")
        level = re.compile(re.escape(ours.split("{}")[0]) + r"(\d+)")
        levels = [level.match(name) for name in names] if "{~}" in theirs else []
        last = max((int(hit[1]) for hit in levels if hit), default=0)
        for name in names:
            hit = row.match(name)
            if hit and name not in result:
                *numbers, tail = hit.groups(default="")
                result[name] = (sources(theirs, numbers, last, tail), rule)
    if lost := [name for name in names if name not in result]:
        raise KeyError(f"no row of the table names {lost[0]}")
    return result


def sources(theirs: str, numbers: list[str], last: int, tail: str) -> list[str]:
    """The names that a row's right side stands for, its numbers and its tail filled in."""
    if "{~}" in theirs:
        theirs = theirs.replace("{~}", str(last - int(numbers[0])))
        numbers = numbers[1:]
    for number in numbers:
        theirs = theirs.replace("{}", number, 1)
    head, bracket, parts = theirs.partition("(")
    if not bracket:
        return [theirs + tail]
    return [head + part + tail for part in parts.removesuffix(")").split("|")]


def joined(shapes: list[tuple[int, ...]], rule: str) -> tuple[int, ...] | None:
    """The shape that `join` gives, None where the parts do not go together."""
    first = shapes[0]
    if rule.startswith("rows"):
        alike = set(shapes[:3]) == {first} and all(shape[1:] == first[1:] for shape in shapes)
        if not alike or () in shapes:
            return None
        return (sum(shape[0] for shape in shapes), *first[1:])
    return (*first, 1, 1) if rule == "squeeze 1x1" and len(first) == 2 else first


def join(parts: list[Tensor], rule: str) -> Tensor:
    """The tensors of the other layout, made into ours by the rule of their row."""
    if rule.startswith("rows"):
        return torch.cat(parts)
    (tensor,) = parts
    if rule == "swap halves":
        return torch.cat(tensor.chunk(2)[::-1])
    if rule == "squeeze 1x1" and tensor.dim() == 2:
        return tensor[:, :, None, None]
    return tensor


# --------------------------------------------------------------------------------------- configs


def count(has: Has, pattern: str) -> int:
    """How many of pattern.format(0), pattern.format(1), ... are there before the first gap."""
    return next(n for n in itertools.count() if not has(pattern.format(n)))
