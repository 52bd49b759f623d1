"""The rows that describe a model's published files: well-formed, and each rule known."""

import re
from dataclasses import fields

import pytest
import torch

from tinybridge.checkpoints import layout
from tinybridge.checkpoints.identify import KINDS, identify

EACH = pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)


@EACH
def test_every_row_has_two_names_and_a_rule_that_is_known(kind):
    assert (kind.table == ()) == (kind.other is None)
    assert len(set(kind.table)) == len(kind.table)
    for ours, theirs, rule in kind.table:
        assert rule in layout.RULES
        assert re.fullmatch(r"[\w.{}]+", ours) and re.fullmatch(r"[\w.{}~|()]+", theirs)
        numbers = ours.count("{}")
        assert theirs.count("{}") + theirs.count("{~}") == numbers and theirs.count("{~}") <= 1
        parts = len(re.findall(r"\|", theirs)) + 1
        assert parts == len(rule.removeprefix("rows ").split("|")), (ours, theirs, rule)
        assert (parts > 1) == rule.startswith("rows") == ("(" in theirs)


@EACH
def test_fields_are_those_of_the_config_and_signatures_are_in_the_table(kind):
    known = {field.name for field in fields(kind.config)}
    assert kind.fields.keys() <= known
    config = kind.config(**({"per_layer_bias": True} if kind.name == "umt5" else {}))
    with torch.device("meta"):
        state = kind.model(config).state_dict()
    assert any(name.startswith(kind.own.start) for name in state)
    if kind.other:
        table = kind.rows(config) if kind.rows else kind.table
        theirs = [part for parts, _ in layout.plan(state, table).values() for part in parts]
        assert any(name.startswith(kind.other.start) for name in theirs)
        assert identify(theirs)[0] == kind.name


def test_a_text_becomes_rows():
    rows = layout.table("""
a.{}.b    c.{}            swap halves
long.own  d.(q|k|v)  rows q|k|v
one       other
""")
    assert rows == (
        ("a.{}.b", "c.{}", "swap halves"),
        ("long.own", "d.(q|k|v)", "rows q|k|v"),
        ("one", "other", "copy"),
    )
    with pytest.raises(ValueError, match="not enough values"):
        layout.table("alone")
