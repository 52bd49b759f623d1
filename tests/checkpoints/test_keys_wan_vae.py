"""The WAN autoencoder's names in both layouts, at full size: each once, same shapes, invertible."""

import pytest
import torch
from diffusers import AutoencoderKLWan
from diffusers.loaders.single_file_utils import convert_wan_vae_to_diffusers

from tests.oracles.official import shapes
from tinybridge.checkpoints import layout
from tinybridge.checkpoints.wan import vae_table
from tinybridge.wan_vae import AutoEncoder, AutoEncoderConfig


def on_meta(model, *given, **fields) -> dict[str, list[int]]:
    with torch.device("meta"):
        state = model(*given, **fields).state_dict()
    return {name: list(tensor.shape) for name, tensor in state.items()}


def test_every_official_name_is_read_once_and_its_shape_agrees():
    ours, theirs = shapes("wanvae_vendor"), shapes("wanvae_diff")
    plan = layout.plan(ours, vae_table())
    sources = [source for sources, rule in plan.values() for source in sources]
    assert sorted(sources) == sorted(theirs) and len(sources) == len(set(sources)) == 194
    for name, ([source], rule) in plan.items():
        assert rule == "copy" and ours[name] == theirs[source], name
    assert sum(torch.Size(shape).numel() for shape in ours.values()) == 126_892_531


def test_there_and_back_is_the_identity_and_is_what_diffusers_converter_does():
    numbers = {name: torch.tensor(i) for i, name in enumerate(shapes("wanvae_vendor"))}
    plan = layout.plan(numbers, vae_table())
    there = {source: numbers[name] for name, ([source], _) in plan.items()}
    back = {name: there[source] for name, ([source], _) in plan.items()}
    assert back == numbers and not set(there) & set(numbers)
    assert there == convert_wan_vae_to_diffusers(dict(numbers))


@pytest.mark.parametrize(
    ("levels", "count"), ((4, 2), (3, 1), (2, 3), (5, 2)), ids=("official", "3", "2", "5")
)
def test_the_rows_of_other_sizes_name_all_that_diffusers_has(levels, count):
    mult = (1, 2, 4, 4, 4)[:levels]
    flags = (False, True, True, False)[: levels - 1]
    sizes = dict(dim_mult=mult, num_res_blocks=count)
    ours = on_meta(AutoEncoder, AutoEncoderConfig(dim=8, temporal_downsample=flags, **sizes))
    sizes["dim_mult"] = list(mult)
    theirs = on_meta(AutoencoderKLWan, base_dim=8, temperal_downsample=list(flags), **sizes)
    plan = layout.plan(ours, vae_table(count, levels))
    assert {source: ours[name] for name, ([source], _) in plan.items()} == theirs


def test_a_name_of_no_row_is_an_error():
    with pytest.raises(KeyError, match=r"decoder\.upsamples\.15"):
        layout.plan(["decoder.upsamples.15.residual.2.weight"], vae_table())
    other = (("conv2", "quant_conv", "copy"), *vae_table())
    assert layout.plan(["conv2.bias"], other) != layout.plan(["conv2.bias"], vae_table())
