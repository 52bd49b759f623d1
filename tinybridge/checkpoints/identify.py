"""What a file is, by the names of its tensors; and its names as its model's row spells them.

Files that others saved put words before every name (`model.diffusion_model.`), hold several models
at once, or spell an ending differently. None of it changes a value.
"""

import re
from collections.abc import Iterable
from dataclasses import replace

from tinybridge.checkpoints import flux, wan
from tinybridge.checkpoints.layout import Kind
from tinybridge.checkpoints.tensors import Checkpoint, Entry

# The order matters: every name that gives T5 away is in UMT5 too.
KINDS = {kind.name: kind for kind in (*wan.FAMILY.kinds, *flux.FAMILY.kinds)}
FAMILIES = {family.name: family for family in (flux.FAMILY, wan.FAMILY)}

# Words that a published tensor's own name never begins with: a chain of them is a wrapping.
WRAPPING = re.compile(
    r"((module|_orig_mod|base_model|net|model|diffusion_model|transformer|dit|unet|pipe|generator"
    r"|vae|autoencoder|first_stage_model|text_encoders?|text_encoder_2|cond_stage_model|conditioner"
    r"|embedders\.\d+|clip_[lg]|t5xxl|umt5xxl)\.)*"
)

STRANGERS = (  # words, and what the names of such a file match, all of it
    (
        "a LoRA, which is no model by itself",
        r"lora|hada_w\d|lokr_w|dora_scale|\.diff(_b)?$|\.alpha$",
    ),
    ("an IP-Adapter, which is no model by itself", r"ip_adapter|^double_blocks\.\d+\.processor\."),
    ("a PuLID adapter, which is no model by itself", r"^pulid_|^id_adapter|^id_former"),
    ("a ControlNet", r"^controlnet_|^input_hint_block\.|^control_blocks\.|^control_model\."),
    ("FLUX.1 Redux, an adapter for pictures", r"^redux_(up|down)"),
    ("weights in 4 bits (bitsandbytes nf4 or fp4)", r"\.absmax$|\.quant_map$|\.quant_state"),
    ("weights in 8 bits (bitsandbytes int8)", r"\.SCB$"),
    ("weights quantized by quanto", r"\.weight\._(data|scale)$"),
    ("weights in 4 bits (SVDQuant, GPTQ or AWQ)", r"\.(qweight|qzeros|wscales|smooth_factor)$"),
    ("weights in 4 bits (nvfp4)", r"\.weight_scale_2$"),
    ("a Chroma transformer", r"^distilled_guidance_layer\."),
    ("a FLUX.2 transformer", r"^(double|single)_stream_modulation"),
    ("a HunyuanVideo transformer", r"token_refiner\.|\.img_attn_qkv\."),
    ("a Stable Diffusion 3 transformer", r"^joint_blocks\.|^pos_embed\.proj\."),
    ("a Qwen-Image transformer", r"^transformer_blocks\.\d+\.img_mod\."),
    ("a WAN VACE transformer", r"^vace_"),
    ("a WAN I2V transformer", r"^img_emb\.|\.k_img\.|image_embedder\.|^blocks\.0\.attn2\.add_k_"),
    (
        "a WAN transformer of another task (sound, motion or camera)",
        r"^(casual_audio_encoder|audio_injector|face_adapter|motion_encoder|control_adapter)\.",
    ),
    (
        "the autoencoder of WAN 2.2",
        r"^encoder\.downsamples\.0\.downsamples\.|^encoder\.down_blocks\.0\.resnets\.0\.norm1\.gamma",
    ),
    ("the autoencoder of FLUX.2", r"^bn\.running_"),
    ("a HunyuanVideo autoencoder", r"^encoder\.down(_blocks)?\.0\..*conv1\.conv\."),
    (
        "a Stable Diffusion autoencoder (it has quant_conv)",
        r"^quant_conv\.",
        r"^encoder\.down(\.0\.block|_blocks\.0\.resnets)\.",
    ),
    ("a Stable Diffusion UNet", r"^input_blocks\.0\."),
    ("a tinybridge prompt", r"^residual"),
)


def identify(names: Iterable[str]) -> tuple[str, str]:
    """What model tensors of these names make: a key of KINDS ("" if not ours), and words for it."""
    names = list(names)
    found = [look(group) for group in unwrapped(names).values()]
    ours = [answer for answer in found if answer[0]]
    if len({kind for kind, _ in ours}) > 1:
        order = list(KINDS)
        kind, words = min(ours, key=lambda answer: order.index(answer[0]))
        return kind, f"{words}, in an all-in-one checkpoint"
    known = ours or [answer for answer in found if answer[1]]
    return (
        known[0] if known else ("", f"unknown tensors ({', '.join(sorted(names)[:3]) or 'none'})")
    )


def unwrapped(names: Iterable[str]) -> dict[str, list[str]]:
    """Names without their wrapping, by the wrapping that they had ("": none)."""
    groups: dict[str, list[str]] = {}
    for name in names:
        wrap, own = unwrap(name)
        groups.setdefault(wrap, []).append(own)
    return groups


def unwrap(name: str) -> tuple[str, str]:
    """A name's wrapping, "" where it has none, and the rest."""
    own = WRAPPING.sub("", name, count=1)
    return name[: len(name) - len(own)], own


def look(names: list[str]) -> tuple[str, str]:
    """A key of KINDS or "", and words or ""; what holds a part of our names is asked first."""
    text = "\n".join(names)
    for words, *patterns in STRANGERS:
        if all(re.search(pattern, text, re.MULTILINE) for pattern in patterns):
            return "", words
    for kind in KINDS.values():
        for mark in (kind.own, kind.other):
            if mark and any(name.startswith(mark.start) for name in names):
                return kind.name, mark.words
    return "", ""


def plain(kind: Kind, checkpoint: Checkpoint) -> Checkpoint:
    """The tensors of a kind under the names of its row; other models of the file are left out.

    ValueError where two tensors of the file have one name then.
    """
    groups = {wrap: look(names)[0] for wrap, names in unwrapped(checkpoint.entries).items()}
    own = [wrap for wrap, what in groups.items() if what == kind.name]
    others = [wrap for wrap, what in groups.items() if what not in ("", kind.name)]
    found: dict[str, list[Entry]] = {}
    kept: list[str] = []
    for key, entry in checkpoint.entries.items():
        wrap, name = unwrap(key)
        for theirs, ours in kind.endings.items():
            if name.endswith(theirs):
                name = name.removesuffix(theirs) + ours
        belongs = wrap not in others and any(chosen.startswith(wrap) for chosen in own)
        if belongs:
            kept.append(name)
        if belongs or not any(other.startswith(wrap) for other in others):
            found.setdefault(name, []).append(entry)
    for name in kept:
        if len(found[name]) > 1:
            first, second = found[name][:2]
            raise ValueError(
                f"{first.file}: {first.key} and {second.key} are two tensors of one name: which "
                "is meant cannot be told"
            )
    return replace(checkpoint, entries={name: found[name][0] for name in kept})
