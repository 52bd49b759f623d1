"""The READMEs' Python, word for word; the package as pip installs it, from another folder."""

import os
import re
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
from PIL import Image

import weights
from tinybridge import bridge
from tinybridge.prompt import Prompt
from tinybridge.training import loop, pairs

ROOT = Path(__file__).parents[1]


def python_of(page: str) -> str:
    """The one block of Python in a README."""
    (block,) = re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(), re.DOTALL)
    return block


METHOD = python_of("README.md")
LIBRARY = python_of("tinybridge/README.md")
LEARNING = python_of("tinybridge/training/README.md")


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """Where pip has put the package, and nothing else."""
    folder = tmp_path_factory.mktemp("install")
    source, site = folder / "source", folder / "site"
    names = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, check=True, capture_output=True, text=True,
    ).stdout.splitlines()  # fmt: skip
    for name in names:
        if not name.startswith(("tests/", "notebooks/")) or name.endswith("__init__.py"):
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, source / name)
    for name in ("tests", "notebooks"):  # folders that a careless search would take for packages
        (source / name).mkdir(exist_ok=True)
        (source / name / "module.py").write_text("")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    pip += ["--no-deps", "--no-build-isolation", "--target", str(site), str(source)]
    done = subprocess.run(pip, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return site


def run(site: Path, folder: Path, code: str) -> str:
    """What a Python program prints that finds tinybridge in `site` alone."""
    env = os.environ | {"PYTHONPATH": str(site), "XDG_CACHE_HOME": str(folder / "cache")}
    command = [sys.executable, "-W", "error", "-c", code]
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_only_tinybridge_is_installed_and_all_of_it(site):
    top = {path.name for path in site.iterdir() if not path.name.endswith(".dist-info")}
    assert top == {"tinybridge"}
    (info,) = site.glob("*.dist-info")
    facts = (info / "METADATA").read_text()
    assert "Name: tinybridge\nVersion: 0.1.0\n" in facts and "Requires-Python: >=3.11" in facts

    def files(folder: Path) -> set[str]:
        found = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
        return {name for name in found if "__pycache__" not in name}

    missing = files(ROOT / "tinybridge") - files(site / "tinybridge")
    extra = files(site / "tinybridge") - files(ROOT / "tinybridge")
    assert not extra and all(name.endswith((".md", ".png")) for name in missing), missing
    assert "py.typed" in files(site / "tinybridge")


def test_readmes_lines_run_from_another_folder(site, tmp_path):
    (tmp_path / "FLUX.1-dev").symlink_to(site / "tinybridge/tiny/flux")
    for name, backbone in (("haze", "flux"), ("snow", "flux"), ("rain", "wan")):
        tiny = weights.load_backbone(backbone)
        prompt = Prompt.init(tiny.length, tiny.width, tiny.blocks, seed=0)
        prompt.meta = {"backbone": backbone, "bridge": "desired", "t0": "0.4", "grid": "true"}
        prompt.save(tmp_path / f"{name}.safetensors")
    Image.linear_gradient("L").resize((40, 24)).convert("RGB").save(tmp_path / "photo.jpg")
    told = run(site, tmp_path, LIBRARY + "print(tuple(pixels.shape), tb.__file__)\n")
    *chunks, last = told.splitlines()
    assert sum(int(re.search(r"\[3, (\d), 64, 64\]", line)[1]) for line in chunks) == 16
    assert last == f"(2, 3, 64, 64) {site / 'tinybridge/__init__.py'}"
    with Image.open(tmp_path / "clear.jpg") as clear:
        assert (clear.size, clear.mode) == ((40, 24), "RGB")


def test_the_method_in_five_lines_runs():
    backbone = weights.load_backbone("flux")
    prompt = Prompt.init(backbone.length, backbone.width, backbone.blocks, seed=0)
    clean, degraded = torch.rand(2, 2, 3, 16, 16)
    x0, y = backbone.encode(clean), backbone.encode(degraded)
    names = {"backbone": backbone, "prompt": prompt, "x0": x0, "y": y, "bridge": bridge}
    names["desired"] = bridge.BRIDGES["desired"]
    names["t"], names["eps"] = torch.rand(2) * 0.4, torch.randn_like(x0)
    exec(METHOD, names)
    assert prompt.residual.grad.abs().max() > 0 and prompt.gates.grad.abs().max() > 0
    assert names["restored"].shape == degraded.shape


def test_learning_from_python_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(pairs, "SCENES", (16, 4))
    monkeypatch.setattr(loop, "Settings", partial(loop.Settings, batch_size=2))
    few = LEARNING.replace("steps=100", "steps=2")
    assert few != LEARNING
    names = {"backbone": weights.load_backbone("flux"), "Path": Path}
    exec(few, names)
    assert len(names["rows"]) == 2 and (tmp_path / "runs/haze/prompt.safetensors").is_file()


def test_the_method_needs_torch_alone_and_the_package_not_even_that(site, tmp_path):
    code = "import sys, tinybridge; print('torch' in sys.modules)\n"
    code += "import tinybridge.bridge; print(*sys.modules)\n"
    code += "try: tinybridge.nothing\nexcept AttributeError as error: print(error)"
    torch_there, modules, error = run(site, tmp_path, code).splitlines()
    assert torch_there == "False" and "torch" in modules.split()
    ours = {name for name in modules.split() if name.startswith("tinybridge")}
    assert ours == {"tinybridge", "tinybridge.bridge"}
    assert not set(modules.split()) & {"safetensors", "sentencepiece", "PIL", "av"}
    assert error == "module 'tinybridge' has no attribute 'nothing'"
