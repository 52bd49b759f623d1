"""Small complete folders, and a cache of their own, for the tests of this folder."""

from pathlib import Path

import pytest

from tests.oracles import folders as make
from tests.oracles.wan_files import write_wan


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make.write_folder(tmp_path / "flux")


@pytest.fixture
def wan(tmp_path: Path) -> Path:
    return write_wan(tmp_path / "wan")
