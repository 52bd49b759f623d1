"""WAN's name table against both official lists, diffusers' converter and diffusers' own model."""

import pytest
import torch
from diffusers.loaders import single_file_utils as converter

from tests.oracles.official import shapes
from tests.oracles.plain import error
from tests.oracles.wan import diffusers_twin, inputs, run_twin, tiny
from tinybridge.checkpoints.identify import identify
from tinybridge.checkpoints.layout import plan
from tinybridge.checkpoints.wan import WAN_TABLE
from tinybridge.wan import SIZES, Wan, WanConfig

BOTH = pytest.mark.parametrize(("size", "short"), [("1.3B", "wan13"), ("14B", "wan14")])


@BOTH
def test_every_diffusers_name_is_read_once_with_its_shape(size, short):
    with torch.device("meta"):
        own = Wan(WanConfig(**SIZES[size])).state_dict()
    theirs = shapes(f"{short}_diff")
    rows = plan(own, WAN_TABLE)
    assert sorted(part for parts, _ in rows.values() for part in parts) == sorted(theirs)
    for name, ((part,), rule) in rows.items():
        assert (theirs[part], rule) == (list(own[name].shape), "copy"), name
    assert identify(theirs)[0] == identify(own)[0] == "wan"


@BOTH
def test_there_and_back_is_the_identity(size, short):
    rows = plan(shapes(f"{short}_vendor"), WAN_TABLE)
    forth = {name: part for name, ((part,), _) in rows.items()}
    theirs = {part: name for name, part in forth.items()}
    assert len(theirs) == len(forth)
    swapped = tuple((other, own, rule) for own, other, rule in WAN_TABLE)
    back = {name: part for name, ((part,), _) in plan(shapes(f"{short}_diff"), swapped).items()}
    assert back == theirs


@BOTH
def test_table_agrees_with_diffusers_converter(size, short):
    names = list(shapes(f"{short}_vendor"))
    numbered = {name: torch.tensor(i) for i, name in enumerate(names)}
    theirs = converter.convert_wan_transformer_to_diffusers(dict(numbered))
    rows = plan(names, WAN_TABLE)
    assert len(theirs) == len(rows)
    for name, ((part,), _) in rows.items():
        assert torch.equal(theirs[part], numbered[name]), name


def test_tensors_of_diffusers_through_the_table_give_its_velocity():
    model, given = tiny(), inputs()
    twin = diffusers_twin(tiny(seed=1))
    want = run_twin(twin, **given)
    assert error(model(**given), want) > 1e-2
    theirs = twin.state_dict()
    rows = plan(model.state_dict(), WAN_TABLE)
    state = {name: theirs[part] for name, ((part,), _) in rows.items()}
    model.load_state_dict(state)
    assert error(model(**given), want) < 1e-5
    q, k = ("blocks.0.cross_attn.q.weight", "blocks.0.cross_attn.k.weight")
    model.load_state_dict(state | {q: state[k], k: state[q]})
    assert error(model(**given), want) > 1e-5
