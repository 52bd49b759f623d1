"""Complete small FLUX folders with random weights, in the vendor's layout and in diffusers'."""

import io
import json
import struct
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from tinybridge.checkpoints import layout as keys
from tinybridge.checkpoints.flux import FLUX_TABLE, FLUX_VAE_TABLE
from tinybridge.flux import Flux, FluxConfig
from tinybridge.flux_vae import AutoEncoder, AutoEncoderConfig
from tinybridge.text.encoders import ClipConfig, ClipText, T5Config, T5Encoder

FLUX = FluxConfig(
    in_channels=16,
    hidden_size=32,
    num_heads=2,
    depth=2,
    depth_single=3,
    context_dim=24,
    pooled_dim=64,
    axes_dim=(4, 6, 6),
)
VAE = AutoEncoderConfig(ch=8, ch_mult=(1, 2, 2), num_res_blocks=1, z_channels=4, groups=4)
T5 = T5Config(vocab_size=96, d_model=24, d_kv=8, num_heads=2, d_ff=40, num_layers=2)
CLIP = ClipConfig(vocab_size=516, hidden_size=64, intermediate_size=96, num_layers=2, num_heads=1)
LENGTH = 16  # rows of text

SENTENCE = "a photo of red blue green hills under clear sky with haze rain and snow"


def random_model(build, config, seed: int, spread: float = 0.3) -> nn.Module:
    """A model whose every parameter is random and matters: norms near 1, the rest near 0."""
    model = build(config)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            noise = torch.randn(weight.shape, generator=generator)
            centre = 1.0 if weight.dim() == 1 and not name.endswith("bias") else 0.0
            size = spread if weight.dim() == 1 else (weight[0].numel()) ** -0.5
            weight.copy_(centre + size * noise)
    return model.eval().requires_grad_(False)


def error_of(load: Callable, *args: Any) -> str:
    """The message of a loader's error, which has to be one line."""
    with pytest.raises((ValueError, OSError)) as caught:
        load(*args)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def split(tensor: Tensor, rule: str, width: int) -> list[Tensor]:
    """The inverse of keys.join: one of our tensors as those of the other layout."""
    if rule == "rows q|k|v":
        return list(tensor.chunk(3))
    if rule == "rows q|k|v|mlp":
        return list(tensor.split([width, width, width, len(tensor) - 3 * width]))
    if rule == "swap halves":
        return [torch.cat(tensor.chunk(2)[::-1])]
    if rule == "squeeze 1x1" and tensor.dim() == 4:
        return [tensor[:, :, 0, 0]]
    return [tensor]


def to_other(state: dict[str, Tensor], table: keys.Table, width: int = 0) -> dict[str, Tensor]:
    """A state_dict of ours in the other layout of `table`; width: FLUX's hidden size."""
    result = {}
    for name, (parts, rule) in keys.plan(state, table).items():
        result |= dict(zip(parts, split(state[name], rule, width), strict=True))
    return {name: tensor.contiguous() for name, tensor in result.items()}


def write_shards(folder: Path, stem: str, state: dict[str, Tensor], count: int) -> None:
    """state as stem-0000i-of-0000n.safetensors with their index, or as one file when count is 1."""
    folder.mkdir(parents=True, exist_ok=True)
    if count == 1:
        save_file(state, folder / f"{stem}.safetensors", {"format": "pt"})
        return
    names = list(state)
    placed = {}
    for i in range(count):
        file = f"{stem}-{i + 1:05}-of-{count:05}.safetensors"
        part = names[i::count]
        save_file({name: state[name] for name in part}, folder / file, {"format": "pt"})
        placed |= dict.fromkeys(part, file)
    total = sum(tensor.nbytes for tensor in state.values())
    index = {"metadata": {"total_size": total}, "weight_map": placed}
    (folder / f"{stem}.safetensors.index.json").write_text(json.dumps(index))


def write_header(path: Path, shapes: dict[str, list[int]], dtype: str = "BF16") -> Path:
    """A safetensors file of these shapes that is all zeros and takes no room on the disk."""
    size = {"F32": 4, "BF16": 2, "F16": 2, "F8_E4M3": 1}[dtype]
    header, end = {}, 0
    for name, shape in shapes.items():
        begin, end = end, end + size * torch.Size(shape).numel()
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + end)
    return path


def write_tokenizers(folder: Path, sentence: str = SENTENCE) -> None:
    """tokenizer/ with bytes and two merges as CLIP's, tokenizer_2/ with a trained sentencepiece."""
    symbols = [chr(i) for i in (*range(33, 127), *range(161, 173), *range(174, 256))]
    symbols += [chr(256 + i) for i in range(256 - len(symbols))]
    pieces = symbols + [symbol + "</w>" for symbol in symbols] + ["re", "red</w>"]
    vocabulary = [*pieces, "<|startoftext|>", "<|endoftext|>"]
    clip = folder / "tokenizer"
    clip.mkdir(parents=True, exist_ok=True)
    (clip / "vocab.json").write_text(json.dumps({piece: i for i, piece in enumerate(vocabulary)}))
    (clip / "merges.txt").write_text("#version: 0.2\nr e\nre d</w>\n")
    (clip / "tokenizer_config.json").write_text(json.dumps({"model_max_length": 77}))

    t5, model, words = folder / "tokenizer_2", io.BytesIO(), sentence.split()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([" ".join(words[i:] + words[:i]) for i in range(len(words))]),
        model_writer=model,
        vocab_size=60,
        hard_vocab_limit=False,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        minloglevel=2,
    )
    t5.mkdir(exist_ok=True)
    (t5 / "spiece.model").write_bytes(model.getvalue())
    (t5 / "tokenizer_config.json").write_text(json.dumps({"model_max_length": LENGTH}))


def models(seed: int = 0, guidance: bool = True) -> dict[str, nn.Module]:
    """The four models of a small FLUX, random but the same for a seed, in every layout."""
    return {
        "flux": random_model(Flux, replace(FLUX, guidance=guidance), seed),
        "flux_vae": random_model(AutoEncoder, VAE, seed + 1),
        "clip": random_model(ClipText, CLIP, seed + 2),
        "t5": random_model(T5Encoder, T5, seed + 3),
    }


def config_json(kind: str, config) -> dict:
    """A model's config.json as diffusers and transformers write it."""
    if kind == "flux":
        return {
            "_class_name": "FluxTransformer2DModel",
            "in_channels": config.in_channels,
            "num_layers": config.depth,
            "num_single_layers": config.depth_single,
            "attention_head_dim": config.hidden_size // config.num_heads,
            "num_attention_heads": config.num_heads,
            "joint_attention_dim": config.context_dim,
            "pooled_projection_dim": config.pooled_dim,
            "guidance_embeds": config.guidance,
            "axes_dims_rope": list(config.axes_dim),
        }
    if kind == "flux_vae":
        levels = len(config.ch_mult)
        return {
            "_class_name": "AutoencoderKL",
            "block_out_channels": [config.ch * mult for mult in config.ch_mult],
            "down_block_types": ["DownEncoderBlock2D"] * levels,
            "up_block_types": ["UpDecoderBlock2D"] * levels,
            "layers_per_block": config.num_res_blocks,
            "latent_channels": config.z_channels,
            "norm_num_groups": config.groups,
            "scaling_factor": config.scale_factor,
            "shift_factor": config.shift_factor,
            "use_quant_conv": False,
            "use_post_quant_conv": False,
        }
    if kind == "clip":
        return {
            "architectures": ["CLIPTextModel"],
            "model_type": "clip_text_model",
            "vocab_size": config.vocab_size,
            "hidden_size": config.hidden_size,
            "intermediate_size": config.intermediate_size,
            "num_hidden_layers": config.num_layers,
            "num_attention_heads": config.num_heads,
            "max_position_embeddings": config.max_position_embeddings,
            "eos_token_id": config.eos_token_id,
        }
    return {
        "architectures": ["T5EncoderModel"],
        "model_type": "t5",
        "feed_forward_proj": "gated-gelu",
        "vocab_size": config.vocab_size,
        "d_model": config.d_model,
        "d_kv": config.d_kv,
        "d_ff": config.d_ff,
        "num_heads": config.num_heads,
        "num_layers": config.num_layers,
    }


def write_folder(
    folder: Path,
    layout: str = "vendor",
    seed: int = 0,
    guidance: bool = True,
    shards: int = 1,
    dtype: torch.dtype = torch.float32,
) -> Path:
    """A complete small FLUX under `folder`: "vendor" or "diffusers", the same model for a seed.

    shards: files of the diffusers transformer and of both layouts' T5, with an index from 2 on.
    """
    parts = models(seed, guidance)
    states = {
        kind: {k: v.to(dtype) for k, v in m.state_dict().items()} for kind, m in parts.items()
    }
    write_tokenizers(folder)
    for kind, place in (("clip", "text_encoder"), ("t5", "text_encoder_2")):
        write_shards(folder / place, "model", states[kind], shards if kind == "t5" else 1)
        text = json.dumps(config_json(kind, parts[kind].config))
        (folder / place / "config.json").write_text(text)
    files = {"flux": "flux1-small.safetensors", "flux_vae": "ae.safetensors"}
    places = {"flux": ("transformer", FLUX_TABLE), "flux_vae": ("vae", FLUX_VAE_TABLE)}
    for kind in files:
        config = parts[kind].config
        if layout == "vendor":
            save_file(states[kind], folder / files[kind], {"config": json.dumps(asdict(config))})
            continue
        place, table = places[kind]
        state = to_other(states[kind], table, FLUX.hidden_size)
        count = shards if kind == "flux" else 1
        write_shards(folder / place, "diffusion_pytorch_model", state, count)
        (folder / place / "config.json").write_text(json.dumps(config_json(kind, config)))
    return folder
