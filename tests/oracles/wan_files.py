"""Small models of WAN 2.1 in the layouts of their published files."""

import io
import json
from collections import OrderedDict
from dataclasses import asdict
from pathlib import Path

import sentencepiece
import torch
from safetensors.torch import save_file

import weights
from tests.oracles.folders import SENTENCE, to_other, write_shards
from tests.oracles.text import t5
from tests.oracles.wan import tiny
from tests.oracles.wan_vae import CONFIGS, autoencoder
from tinybridge.checkpoints.wan import UMT5_TABLE, WAN_TABLE, vae_table

LOAD = {"wan": weights.load_wan, "wan_vae": weights.load_wan_vae, "umt5": weights.load_umt5}
PTH = {"wan_vae": "Wan2.1_VAE.pth", "umt5": "models_t5_umt5-xxl-enc-bf16.pth"}


def small(kind: str, seed: int = 0):
    """A small random model and the table of its other layout."""
    if kind == "wan":
        return tiny(seed=seed), WAN_TABLE
    if kind == "umt5":
        return t5(torch.float32, seed, per_layer_bias=True), UMT5_TABLE
    return autoencoder(CONFIGS["three-levels"], seed=seed), vae_table(1, 3)


def same(model, state: dict[str, torch.Tensor]) -> bool:
    loaded = model.state_dict()
    assert loaded.keys() == state.keys()
    return all(torch.equal(tensor, state[name]) for name, tensor in loaded.items())


def vendor(kind: str):
    """A small model and its tensors as the vendor's .pth holds them, an OrderedDict."""
    model, table = small(kind)
    state = to_other(model.state_dict(), table) if kind == "umt5" else model.state_dict()
    return model, OrderedDict(state)


# ------------------------------------------------------------------------- a whole small folder

LENGTH = 14  # rows of text
FOLDER = {  # parts that fit each other: 4 latent channels, text rows 24 wide
    "wan": lambda seed: tiny(seed=seed, context_dim=24),
    "wan_vae": lambda seed: autoencoder(CONFIGS["time-first"], seed=seed),
    "umt5": lambda seed: t5(torch.float32, seed, per_layer_bias=True, vocab_size=400),
}


def write_tokenizer(folder: Path) -> None:
    """tokenizer/ with a trained sentencepiece: pad 0, end 1, begin 2, unknown 3, as UMT5's."""
    model, words = io.BytesIO(), SENTENCE.split()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([" ".join(words[i:] + words[:i]) for i in range(len(words))]),
        model_writer=model, vocab_size=60, hard_vocab_limit=False, minloglevel=2,
        pad_id=0, eos_id=1, bos_id=2, unk_id=3,
    )  # fmt: skip
    (folder / "tokenizer").mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer/spiece.model").write_bytes(model.getvalue())
    told = json.dumps({"model_max_length": LENGTH})
    (folder / "tokenizer/tokenizer_config.json").write_text(told)


def write_wan(folder: Path, layout: str = "vendor", seed: int = 0) -> Path:
    """A complete small WAN under `folder`: "vendor" or "diffusers", the same model for a seed."""
    parts = {kind: make(seed) for kind, make in FOLDER.items()}
    write_tokenizer(folder)
    config = {"model_type": "umt5"} | {k: v for k, v in asdict(parts["umt5"].config).items()}
    write_shards(folder / "text_encoder", "model", parts["umt5"].state_dict(), 1)
    (folder / "text_encoder/config.json").write_text(json.dumps(config))
    files = {"wan": "wan2.1_t2v_small.safetensors", "wan_vae": "wan_2.1_vae.safetensors"}
    places = {"wan": ("transformer", WAN_TABLE), "wan_vae": ("vae", vae_table(1, 4))}
    for kind, file in files.items():
        state, told = parts[kind].state_dict(), json.dumps(asdict(parts[kind].config))
        if layout == "vendor":
            save_file(state, folder / file, {"config": told})
            continue
        place, table = places[kind]
        state = {name: part.contiguous() for name, part in to_other(state, table).items()}
        write_shards(folder / place, "diffusion_pytorch_model", state, 1)
        name = {"wan": "WanTransformer3DModel", "wan_vae": "AutoencoderKLWan"}[kind]
        told = json.dumps({"_class_name": name} | asdict(parts[kind].config))
        (folder / place / "config.json").write_text(told)
    return folder
