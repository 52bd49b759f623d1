"""Small models of WAN 2.1 in the layouts of their published files."""

from collections import OrderedDict

import torch
from make_folders import to_other
from text_oracles import t5
from wan_oracles import tiny
from wan_vae_oracles import CONFIGS, autoencoder

import weights
from tinybridge import keys
from tinybridge.keys_wan import WAN
from tinybridge.keys_wan_vae import rows

LOAD = {"wan": weights.load_wan, "wan_vae": weights.load_wan_vae, "umt5": weights.load_umt5}
PTH = {"wan_vae": "Wan2.1_VAE.pth", "umt5": "models_t5_umt5-xxl-enc-bf16.pth"}


def small(kind: str, seed: int = 0):
    """A small random model and the table of its other layout."""
    if kind == "wan":
        return tiny(seed=seed), WAN
    if kind == "umt5":
        return t5(torch.float32, seed, per_layer_bias=True), keys.UMT5
    return autoencoder(CONFIGS["three-levels"], seed=seed), rows(1, 3)


def same(model, state: dict[str, torch.Tensor]) -> bool:
    loaded = model.state_dict()
    assert loaded.keys() == state.keys()
    return all(torch.equal(tensor, state[name]) for name, tensor in loaded.items())


def vendor(kind: str):
    """A small model and its tensors as the vendor's .pth holds them, an OrderedDict."""
    model, table = small(kind)
    state = to_other(model.state_dict(), table) if kind == "umt5" else model.state_dict()
    return model, OrderedDict(state)
