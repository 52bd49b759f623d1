"""The committed lists of official tensors are those that they were made from, where these are."""

import pytest

from tests.oracles import official

LISTS = official.SHARED / "keys"


@pytest.mark.skipif(not LISTS.is_dir(), reason="the lists that official.json.xz is made from")
def test_the_committed_lists_are_what_a_rebuild_gives():
    assert official.gathered(LISTS) == official.committed()
    rebuilt = {name: list(shapes) for name, shapes in official.gathered(LISTS).items()}
    assert rebuilt == {name: list(shapes) for name, shapes in official.committed().items()}
