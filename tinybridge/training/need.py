"""What a run needs of memory, told before it begins: it is run on shapes, and bytes are counted.

A backbone of headers (loaded on the device "meta") has every shape and no value. What is computed
with it makes and frees tensors without values, just when the run itself would make and free them;
`Tally` counts those that live. So an estimate follows the code, whatever becomes of it. What
libraries take inside of one operation is not seen, but for convolutions on a CPU.

Letters: B samples at once, C t h w latent, T H W pixels.
"""

import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from tinybridge import restoration
from tinybridge.backbone import Backbone

GB = 1e9
KEPT = 4  # latents that a sampling step has beside its state: y, the noise, the estimate, the next
BESIDE = 40_000_000  # bytes that kernels and the allocator take beside tensors
ERROR = 0.15  # how far an estimate may be off, tests/bench/estimates.md


@contextmanager
def fused() -> Iterator[None]:
    """Inside, attention takes the form that holds no table of weights, as it does with values.

    Without values torch would take another. Not a mode of torch, which ends where blocks are
    recomputed.
    """
    usual = F.scaled_dot_product_attention

    def attention(*qkv: Tensor, **options: Any) -> Tensor:
        form = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
        return form(*qkv, **options)[0]

    F.scaled_dot_product_attention = attention
    try:
        yield
    finally:
        F.scaled_dot_product_attention = usual


class Tally(TorchDispatchMode):
    """Bytes of the tensors that are made inside: `live` ones, and at most at any time, `peak`."""

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = 0

    def __torch_dispatch__(
        self, function: Any, types: Any, args: tuple = (), named: dict | None = None
    ) -> Any:
        result = function(*args, **(named or {}))
        given = {id(tensor.untyped_storage()) for tensor in tensors_of((args, named))}
        for tensor in tensors_of(result):
            storage = tensor.untyped_storage()
            if id(storage) not in given:  # else it is a view, or was changed in place
                given.add(id(storage))
                self.live += storage.nbytes()
                weakref.finalize(storage, self.forget, storage.nbytes())
        scratch = 0
        if function is torch.ops.aten.convolution.default:
            scratch = args[0].nbytes + result.nbytes  # both once more, channels in blocks
        self.peak = max(self.peak, self.live + scratch)
        return result

    def forget(self, size: int) -> None:
        self.live -= size


def tensors_of(tree: Any) -> list[Tensor]:
    """All tensors in lists, tuples and dictionaries of lists, ..."""
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def peak_of(run: Callable[[], object]) -> int:
    """Most bytes that the tensors of run() have at once, those that it was given not counted."""
    with fused(), Tally() as tally:
        run()
    return tally.peak


def held(module: nn.Module) -> int:
    """Bytes of all that a model has on its device."""
    return sum(weight.nbytes for weight in module.state_dict().values())


# ---- the stages of a run -----------------------------------------------------------------------


@dataclass(frozen=True)
class Need:
    """Bytes: weights that stay, what a step and the autoencoder make, the text encoder before."""

    model: int
    vae: int
    step: int
    coding: int
    text: int = 0

    @property
    def total(self) -> int:
        """At the fullest moment. The text encoder is gone before the other weights come."""
        return BESIDE + max(self.text, self.model + self.vae + max(self.step, self.coding))

    def __str__(self) -> str:
        parts = {
            "transformer": self.model,
            "a step": self.step,
            "autoencoder": self.vae,
            "its maps": self.coding,
            "text encoder, before those": self.text,
        }
        told = [f"{name} {gb(size)}" for name, size in parts.items() if size]
        return f"needs about {gb(self.total)} GB ({', '.join(told)})"


def gb(size: float) -> str:
    return f"{size / GB:.2f}" if size < 10 * GB else f"{size / GB:.1f}"


def to_encode_text(encoders: Sequence[nn.Module], length: int) -> int:
    """Bytes at most while the text encoders, of headers, say `length` rows one after another."""
    most = 0
    for encoder in encoders:
        rows = min(length, getattr(encoder.config, "max_position_embeddings", length))
        ids = torch.empty(1, rows, dtype=torch.long, device="meta")
        with torch.no_grad():
            most = max(most, held(encoder) + peak_of(partial(encoder, ids)))
    return most


def latent_of(backbone: Backbone, samples: int, shape: Sequence[int]) -> Tensor:
    """The latent, without values, of pictures (H, W) or clips (T, H, W)."""
    sides = [2 * -(-side // backbone.stride) for side in shape[-2:]]  # h, w
    if backbone.video:
        sides.insert(0, 1 + -(-(shape[0] - 1) // backbone.vae.time_stride))  # t
    return torch.empty(samples, backbone.vae.config.z_channels, *sides, device="meta")


def there_and_back(backbone: Backbone, samples: int, shape: Sequence[int]) -> None:
    """Pixels of such shapes through the autoencoder, both ways."""
    pixels = torch.empty(samples, 3, *shape, device="meta")
    latent = restoration.encode(backbone, pixels)  # [B, C, ..., h, w]
    restoration.decode(backbone, latent, tuple(shape))


def to_restore(
    backbone: Backbone,
    prompts: list,
    size: tuple[int, int],
    frames: int = 1,
    windows: int = 1,
    text: int = 0,
) -> Need:
    """Of a picture (H, W), or a clip of such frames. backbone: of headers, with its size and tile.

    frames: of the clip, at most those of a window; windows: how many are one batch; text: see
    `to_encode_text`.
    """
    shape: tuple[int, ...] = size
    coded = shape  # a clip goes through the autoencoder latent frame by latent frame
    if backbone.video:
        shape = (frames, *size)
        coded = (min(frames, 1 + 2 * backbone.vae.time_stride), *size)

    def step() -> None:
        beside = latent_of(backbone, KEPT, shape)  # [KEPT, C, ..., h, w]
        terms = backbone.prepare(prompts)
        side = (backbone.size or max(size)) // backbone.vae.stride
        n = windows if max(beside.shape[-2:]) > side else 1
        x = torch.empty(n, *beside[0, ..., :side, :side].shape, device="meta")  # [n, C, ..., h, w]
        backbone.velocity(x, torch.empty(n, device="meta"), terms)

    with torch.no_grad():
        coding = peak_of(partial(there_and_back, backbone, 1, coded))
        stepping = peak_of(step)
    return Need(stays(backbone), held(backbone.vae), stepping, coding, text)


def to_learn(
    backbone: Backbone,
    prompt: nn.Module,
    shape: Sequence[int],
    micro_batch: int,
    coded: int = 1,
    text: int = 0,
) -> Need:
    """Of a training step on `micro_batch` pictures or clips of a shape (H, W) or (T, H, W).

    backbone, prompt: of headers. coded: how many go through the autoencoder together.
    """

    def step() -> None:
        x0, y, eps, x_t = (latent_of(backbone, micro_batch, shape) for _ in range(4))
        v = backbone.velocity(x_t, torch.empty(micro_batch, device="meta"), prompt)
        (x0 - x_t + v).square().mean().backward()
        del y, eps

    coding = peak_of(partial(there_and_back, backbone, coded, shape))
    return Need(stays(backbone), held(backbone.vae), peak_of(step), coding, text)


def stays(backbone: Backbone) -> int:
    """Bytes of the transformer's weights, and of the text encoder's where tokens are learned."""
    encoder = backbone.encoder
    return held(backbone.model) + (0 if encoder is None else held(encoder))


# ---- what can be done about it -----------------------------------------------------------------


def check(
    estimate: Callable[..., Need], smaller: dict[str, dict[str, Any]], there: int | None
) -> str:
    """What a run needs and what there is, in one line; ValueError, in one too, if it cannot fit.

    estimate(**changes): of the run with those changes. smaller: flags, the least harmful first, and
    the changes that each makes; as many are named as are needed. there: bytes; None: not known.
    """
    need = estimate()
    if there is None:
        return str(need)
    line = f"{need}, of {gb(there)} GB that there are"
    if need.total <= there:
        return line
    if need.total * (1 - ERROR) <= there:
        return f"{line}: it may not fit"

    def total(chosen: dict[str, dict[str, Any]]) -> int:
        changes: dict[str, Any] = {}
        for change in chosen.values():
            changes |= change
        return estimate(**changes).total

    chosen: dict[str, dict[str, Any]] = {}
    for flag, change in smaller.items():
        chosen[flag] = change
        if total(chosen) <= there:
            break
    goal = max(there, total(chosen))
    for flag in list(chosen):  # what is not needed for it after all
        others = {other: change for other, change in chosen.items() if other != flag}
        if others and total(others) <= goal:
            chosen = others
    so = f"{' '.join(chosen)} needs {gb(total(chosen))}"
    raise ValueError(f"{line}: {so if goal == there else f'even {so}'}")
