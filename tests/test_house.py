"""The room plan as data: who may import whom, how long a file may be, what README may name."""

import ast
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

PLAN = {  # file: floor, packages it may import besides torch and the standard library
    "tinybridge/__init__.py": (0, ""),
    "tinybridge/bridge.py": (0, ""),
    "tinybridge/prompt.py": (0, "safetensors"),
    "tinybridge/layers.py": (0, ""),
    "tinybridge/tiles.py": (0, ""),
    "tinybridge/causal.py": (0, ""),
    "tinybridge/tokens.py": (0, "sentencepiece"),
    "tinybridge/data.py": (0, "numpy PIL"),
    "tinybridge/film.py": (0, "numpy av"),
    "tinybridge/scenes.py": (0, "numpy"),
    "tinybridge/clips.py": (1, "numpy"),
    "tinybridge/video.py": (1, "numpy PIL av"),
    "tinybridge/metrics.py": (0, ""),
    "tinybridge/keys.py": (0, ""),
    "tinybridge/keys_wan.py": (0, ""),
    "tinybridge/keys_wan_vae.py": (0, ""),
    "tinybridge/sizes.py": (0, ""),
    "tinybridge/places.py": (0, ""),
    "tinybridge/cache.py": (0, "safetensors"),
    "tinybridge/resume.py": (0, "safetensors"),
    "tinybridge/tiny/__init__.py": (0, ""),
    "tinybridge/tiny/muon.py": (0, ""),
    "tinybridge/flux.py": (1, ""),
    "tinybridge/flux_vae.py": (1, ""),
    "tinybridge/wan.py": (1, ""),
    "tinybridge/wan_vae.py": (1, ""),
    "tinybridge/text.py": (1, ""),
    "tinybridge/backbone.py": (1, ""),
    "tinybridge/restore.py": (1, ""),
    "tinybridge/stream.py": (1, ""),
    "tinybridge/files.py": (2, "tqdm"),
    "tinybridge/training.py": (2, "tqdm"),
    "tinybridge/loading.py": (2, ""),
    "tinybridge/sentences.py": (3, ""),
    "tinybridge/checkpoint.py": (0, "safetensors"),
    "tinybridge/fill.py": (1, ""),
    "tinybridge/tiny/pretrain.py": (2, "tqdm"),
    "tinybridge/tiny/pretrain_wan.py": (3, "tqdm"),
    "tinybridge/tiny/make.py": (4, "numpy safetensors sentencepiece tqdm"),
    "weights.py": (3, ""),
    "train.py": (4, "tqdm"),
    "sample.py": (4, "tqdm"),
}


def imports(file: str) -> set[str]:
    """Full names of all that a file imports, inside functions too."""
    found = set()
    for node in ast.walk(ast.parse((ROOT / file).read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: imports are absolute here"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def rooms(names: set[str]) -> set[str]:
    """The files of the plan among imported names."""
    found = set()
    for name in names:
        if name.split(".")[0] in ("tinybridge", "weights", "train", "sample"):
            parts = name.split(".")
            options = ["/".join(parts[:n]) + ".py" for n in range(len(parts), 0, -1)]
            found |= set([option for option in options if option in PLAN][:1])
    return found


def test_the_plan_names_every_file():
    here = {str(file.relative_to(ROOT)) for file in ROOT.glob("tinybridge/**/*.py")}
    assert here | {"weights.py", "train.py", "sample.py"} == PLAN.keys()
    assert {file.name for file in ROOT.glob("*.py")} == {"weights.py", "train.py", "sample.py"}


@pytest.mark.parametrize("file", PLAN)
def test_imports_point_down(file):
    floor, packages = PLAN[file]
    names = imports(file)
    for room in rooms(names):
        assert PLAN[room][0] < floor, f"{file} on floor {floor} imports {room}"
        assert not (file.startswith("tinybridge/") and "/" not in room), f"{file} imports a script"
    outside = {name.split(".")[0] for name in names} - set(sys.stdlib_module_names)
    outside -= {"tinybridge", "weights", "torch"}
    assert outside <= set(packages.split()), f"{file} imports {outside}"


def test_the_check_can_fail():
    assert rooms({"tinybridge.flux.Flux", "weights", "torch"}) == {
        "tinybridge/flux.py",
        "weights.py",
    }
    assert rooms({"tinybridge.tiny.muon.Muon"}) == {"tinybridge/tiny/muon.py"}
    assert "tinybridge.layers.attention" in imports("tinybridge/flux.py")


@pytest.mark.parametrize(
    "file", sorted(ROOT.glob("t*/**/*.py")) + sorted(ROOT.glob("*.py")), ids=str
)
def test_a_file_fits_in_one_reading(file):
    text = file.read_text()
    assert len(text.splitlines()) <= 300
    if text.strip() and file.name != "__init__.py":
        assert ast.get_docstring(ast.parse(text)), "a file begins by saying what it is"


@pytest.mark.parametrize("file", [name for name in PLAN if not name.endswith("__init__.py")])
def test_public_functions_say_what_they_do(file):
    tree = ast.parse((ROOT / file).read_text())
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            told = ast.get_docstring(node) or len(node.body) <= 6 or node.name == "main"
            assert told, f"{file}: {node.name} has no docstring"


def test_pickles_are_never_executed():
    for file in [*PLAN, *(str(f.relative_to(ROOT)) for f in ROOT.glob("tests/*.py"))]:
        for node in ast.walk(ast.parse((ROOT / file).read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.load":
                options = {k.arg: ast.unparse(k.value) for k in node.keywords}
                assert options.get("weights_only") == "True", f"{file}: {ast.unparse(node)}"


def test_readme_names_files_that_exist():
    text = (ROOT / "README.md").read_text()
    named = re.findall(
        r"`((?:tinybridge|tests|notebooks)/[\w./-]*|[\w-]+\.(?:py|txt|md|toml))`", text
    )
    named += re.findall(r"\]\(([\w./-]+)\)", text)
    assert len(named) > 20
    for name in named:
        options = [ROOT / name, ROOT / "tinybridge" / name, ROOT / "tinybridge/tiny" / name]
        assert any(option.exists() for option in options), f"README names {name}"
    files = {Path(name).name for name in named}
    assert {Path(name).name for name in PLAN} - {"__init__.py"} <= files, "README has a file guide"


@pytest.mark.parametrize("name", ["flux", "wan"])
def test_readme_repeats_the_measured_tables(name):
    table = (ROOT / f"tests/degradations-{name}.md").read_text().strip()
    assert table in (ROOT / "README.md").read_text()


def test_readme_repeats_the_tables_of_the_comparison():
    tables = (ROOT / "notebooks/results/tables.md").read_text().split("\n\n")
    for head in ("naive | ddbm | desired", "text | token | embedding"):
        (table,) = (table for table in tables if head in table.split("\n")[0])
        assert table.strip() in (ROOT / "README.md").read_text()


def test_readme_has_one_line_to_run_and_one_to_test():
    lines = (ROOT / "README.md").read_text().splitlines()
    for mark in ("# run", "# test"):
        assert len([line for line in lines if line.endswith(mark)]) == 1
