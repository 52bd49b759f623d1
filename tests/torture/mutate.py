"""How a sound input is spoilt: bytes, JSON values, safetensors headers. All of a random.Random."""

import json
import random
import struct
from collections.abc import Callable
from typing import Any

NASTY: tuple[Any, ...] = (
    None,
    True,
    "",
    "x",
    [],
    {},
    [1, [2]],
    0,
    -1,
    1,
    3,
    10**9,
    10**30,
    0.5,
    -0.25,
    float("nan"),
    float("inf"),
    "../../x",
    "a\0b",
    "\ud800",
    "1e999",
)


def of_bytes(data: bytes, rng: random.Random) -> bytes:
    """One to four of: bits turned, a piece cut out, doubled, overwritten, or the end cut off."""
    spoilt = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        if not spoilt:
            break
        at = rng.randrange(len(spoilt))
        # Headers decide more than the rest, so a third of the damage falls into the first 64 bytes.
        if rng.random() < 0.33:
            at = min(at, rng.randrange(64))
        n = rng.choice((1, 2, 4, 16, 200))
        kind = rng.choice(("flip", "cut", "double", "fill", "noise", "end"))
        if kind == "flip":
            spoilt[at] ^= 1 << rng.randrange(8)
        elif kind == "cut":
            del spoilt[at : at + n]
        elif kind == "double":
            spoilt[at:at] = spoilt[at : at + n]
        elif kind == "fill":
            size = len(spoilt[at : at + n])
            spoilt[at : at + size] = bytes([rng.choice((0, 255))]) * size
        elif kind == "noise":
            size = len(spoilt[at : at + n])
            spoilt[at : at + size] = rng.randbytes(size)
        else:
            del spoilt[at:]
    return bytes(spoilt)


def places(value: Any) -> list[tuple[Any, Any]]:
    """Every (container, key) inside a JSON value."""
    found = []
    if isinstance(value, dict):
        found += [(value, key) for key in value]
        for inner in value.values():
            found += places(inner)
    elif isinstance(value, list):
        found += [(value, k) for k in range(len(value))]
        for inner in value:
            found += places(inner)
    return found


def of_json(text: str, rng: random.Random) -> str:
    """A value replaced, removed or renamed somewhere, or the text itself spoilt."""
    if rng.random() < 0.15:
        return of_bytes(text.encode(), rng).decode("utf-8", "surrogateescape")
    value = json.loads(text)
    spots = places(value)
    if not spots or rng.random() < 0.03:
        return json.dumps(rng.choice(NASTY))
    container, key = rng.choice(spots)
    kind = rng.choice(("replace", "replace", "replace", "remove", "rename"))
    if kind == "replace":
        container[key] = rng.choice(NASTY)
    elif kind == "remove":
        del container[key]
    elif isinstance(container, dict):
        container[f"{key}x"] = container.pop(key)
    return json.dumps(value)


def split(data: bytes) -> tuple[str, bytes]:
    """A safetensors file's header text and its values."""
    (size,) = struct.unpack("<Q", data[:8])
    return data[8 : 8 + size].decode(), data[8 + size :]


def of_safetensors(data: bytes, rng: random.Random) -> bytes:
    """Its header's JSON spoilt, with a length that fits it; or any bytes, as `of_bytes`."""
    if rng.random() < 0.3:
        return of_bytes(data, rng)
    header, values = split(data)
    text = of_json(header, rng).encode("utf-8", "surrogatepass")
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + values


def written(data: bytes, how: Callable, rng: random.Random) -> bytes:
    """`data` spoilt by one of the functions above, whichever of text and bytes it takes."""
    if how is of_json:
        return of_json(data.decode(), rng).encode("utf-8", "surrogateescape")
    return how(data, rng)
