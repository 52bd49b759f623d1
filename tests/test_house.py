"""The house as DESIGN draws it: who may import whom, how long and how dense a file may be.

A room is a file on the top shelf of tinybridge/, a wing of it, or a script. The six lines:
the method needs torch alone; a model, its parts; data, text and parts, nothing of ours;
checkpoints, models and text but no data; training, the method and data but no model and no
checkpoints; nobody imports tiny, and nothing in the package imports a script.
"""

import ast
import graphlib
import sys
import tokenize
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

OURS = {  # room: the rooms that it may import
    "bridge": "",
    "prompt": "",
    "metrics": "",
    "backbone": "bridge",
    "windows": "bridge",
    "restoration": "bridge prompt metrics windows",
    "flux": "parts",
    "flux_vae": "parts",
    "wan": "parts",
    "wan_vae": "parts",
    "parts": "",
    "text": "",
    "data": "",
    "checkpoints": "flux flux_vae wan wan_vae text backbone",
    "training": "bridge prompt backbone restoration windows metrics data",
    "sampling": "backbone restoration metrics data training",
    "tiny": "flux flux_vae wan wan_vae text bridge metrics data",
}
SCRIPTS = ("weights", "train", "sample")
THEIRS = {  # packages besides torch and the standard library
    "prompt": "safetensors",
    "text": "sentencepiece",
    "restoration": "PIL",  # imported where a PIL image comes in, no sooner
    "data": "numpy PIL av",
    "checkpoints": "safetensors",
    "training": "safetensors tqdm",
    "sampling": "tqdm",
    "tiny": "numpy safetensors sentencepiece tqdm",
    "train": "tqdm",
    "sample": "tqdm",
}
WINGS = {"parts", "text", "data", "checkpoints", "training", "sampling", "tiny"}
CEILING, CEILINGS = 300, dict.fromkeys(("flux", "flux_vae", "wan", "wan_vae"), 400)
DENSITY, DENSITIES = 15, dict.fromkeys(("flux", "wan", "wan_vae"), 12.5)  # tokens a line of code

PACKAGE = sorted(ROOT.glob("tinybridge/**/*.py"))
CODE = [*PACKAGE, *sorted(ROOT.glob("*.py"))]
TESTS = sorted(ROOT.glob("tests/**/*.py"))


def name_of(file: Path) -> str:
    return str(file.relative_to(ROOT))


def parametrize(files: list[Path]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("file", files, ids=name_of)


def room_of(file: Path) -> str:
    """tinybridge/flux.py is in flux, tinybridge/data/clips.py in data, train.py in train."""
    parts = file.relative_to(ROOT).with_suffix("").parts
    return parts[1] if parts[0] == "tinybridge" else parts[0]


def imports(text: str) -> set[str]:
    """Full names of all that a file imports, inside functions too."""
    found = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute here"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def rooms(names: set[str]) -> set[str]:
    """The rooms and scripts among imported names."""
    found = set()
    for name in names:
        first, *rest = name.split(".")
        if first in SCRIPTS:
            found.add(first)
        if first == "tinybridge" and rest and rest[0] in OURS:
            found.add(rest[0])
    return found


def module_of(name: str) -> str | None:
    """The file of ours that an imported name is, or is a part of."""
    parts = name.split(".")
    for count in range(len(parts), 0, -1):
        place = "/".join(parts[:count])
        for option in (place + ".py", place + "/__init__.py"):
            if (ROOT / option).is_file() and (ROOT / option) in CODE:
                return option
    return None


def test_who_opens_the_folder_sees_the_paper():
    shelf = {file.name for file in (ROOT / "tinybridge").iterdir()}
    shelf -= {"README.md", "__init__.py", "__pycache__", "py.typed"}
    files = {f"{room}.py" for room in OURS.keys() - WINGS}
    assert shelf == files | WINGS
    assert {file.stem for file in ROOT.glob("*.py")} == set(SCRIPTS)


@parametrize([file for file in CODE if room_of(file) != "__init__"])
def test_a_room_imports_what_it_may(file):
    room = room_of(file)
    names = imports(file.read_text())
    if room not in SCRIPTS:
        allowed = set(OURS[room].split()) | {room}
        assert rooms(names) <= allowed, f"{name_of(file)} imports {rooms(names) - allowed}"
    others = {name.split(".")[0] for name in names} - set(sys.stdlib_module_names)
    others -= {"torch", "tinybridge", *SCRIPTS}
    assert others <= set(THEIRS.get(room, "").split()), f"{name_of(file)} imports {others}"


def test_imports_make_no_circle():
    graph = {}
    for file in CODE:
        own = name_of(file)
        graph[own] = {module_of(name) for name in imports(file.read_text())} - {None, own}
        graph[own].discard("tinybridge/__init__.py")  # of which only the version is asked for
    graphlib.TopologicalSorter(graph).prepare()  # CycleError names the circle


def test_the_checks_of_imports_can_fail():
    text = "def f():\n    from tinybridge.data import clips\n    import weights, torch"
    assert rooms(imports(text)) == {"data", "weights"}
    assert rooms({"tinybridge.__version__", "tinybridge"}) == set()
    assert "tinybridge.parts.layers.attention" in imports((ROOT / "tinybridge/flux.py").read_text())
    assert module_of("tinybridge.text.encoders.T5Encoder") == "tinybridge/text/encoders.py"
    assert module_of("tinybridge.text.T5Encoder") == "tinybridge/text/__init__.py"
    assert module_of("torch.nn") is None


@parametrize(CODE + TESTS)
def test_a_file_fits_in_one_reading(file):
    text = file.read_text()
    ceiling = CEILINGS.get(room_of(file), CEILING)
    assert len(text.splitlines()) <= ceiling
    if text.strip() and file.name != "__init__.py":
        assert ast.get_docstring(ast.parse(text)), "a file begins by saying what it is"


def density(file: Path) -> float:
    """Tokens for each line that has one, docstrings and comments not counted."""
    skipped = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT}
    skipped |= {tokenize.ENCODING, tokenize.ENDMARKER}
    said = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            said |= set(range(node.lineno, node.end_lineno + 1))
    with file.open("rb") as stream:
        tokens = [t for t in tokenize.tokenize(stream.readline) if t.type not in skipped]
    lines = [token.start[0] for token in tokens if token.start[0] not in said]
    return len(lines) / max(1, len(set(lines)))


def test_the_measure_of_density(tmp_path):
    text = (
        '"""Said."""\n\nx = 1  # two\ndef f(a):\n    """Not code."""\n    return (a +\n        2)\n'
    )
    (tmp_path / "x.py").write_text(text)
    assert density(tmp_path / "x.py") == (3 + 6 + 4 + 2) / 4


@parametrize(CODE + sorted(ROOT.glob("notebooks/**/*.py")))
def test_a_line_says_one_thing(file):
    model = file.parent.name == "tinybridge" and room_of(file) in DENSITIES
    assert density(file) <= (DENSITIES[room_of(file)] if model else DENSITY)


@parametrize([file for file in CODE if file.name != "__init__.py"])
def test_public_functions_say_what_they_do(file):
    tree = ast.parse(file.read_text())
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            said = ast.get_docstring(node) or len(node.body) <= 6 or node.name == "main"
            assert said, f"{name_of(file)}: {node.name} has no docstring"


def test_pickles_are_never_executed():
    for file in CODE + TESTS + sorted(ROOT.glob("notebooks/**/*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.load":
                options = {k.arg: ast.unparse(k.value) for k in node.keywords}
                assert options.get("weights_only") == "True", f"{file}: {ast.unparse(node)}"
