"""The plan is a test, read from the syntax tree (inside functions too): the order of the rooms and the two laws, no
circle of imports, and nothing longer than a person reads at once.
"""

import ast
import graphlib
import subprocess
import sys
from pathlib import Path

import pytest

import sfumato

ROOT = Path(sfumato.__file__).parent
FLOORS = [
    {"version"},
    {"core"},
    {"nn", "likelihoods", "losses", "data"},
    {"conditioners", "codecs", "priors", "systems"},
    {"recipes", "metrics"},
    {"checkpoint"},
    {"train", "serve"},
    {"report"},
    {"cli"},
]
STUDIES = Path(__file__).resolve().parents[1] / "studies"
PLACES = pytest.mark.parametrize("place", [ROOT, STUDIES], ids=lambda place: place.name)
LINES = {"file": 400, "function": 60}  # at most; a function from its def to its end
FACE = {"__init__", "__main__"}  # the face may import every room
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}


def room_of(path: Path) -> str:
    first = path.relative_to(ROOT).parts[0]
    return first.removesuffix(".py")


def imports(tree: ast.AST):
    """(room, line) of every import of this package, wherever in the file it stands."""
    for node in ast.walk(tree):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"a relative import in line {node.lineno}; the house imports absolutely"
            module = node.module or ""
            names = [f"{module}.{alias.name}" for alias in node.names] if module == "sfumato" else [module]
        for name in names:
            parts = name.split(".")
            if parts[0] == "sfumato" and len(parts) > 1:
                yield parts[1], node.lineno


def breaches():
    for path in sorted(ROOT.rglob("*.py")):
        room = room_of(path)
        if room in FACE:
            continue
        where = path.relative_to(ROOT)
        if room not in FLOOR:
            yield f"{where}: the room {room!r} is not in the plan"
            continue
        for other, line in imports(ast.parse(path.read_text())):
            if other not in FLOOR:
                yield f"{where}:{line} imports {other!r}, which is not in the plan"
            elif other == "nn" and room not in ("nn", "recipes"):
                yield f"{where}:{line}: only recipes may import nn (first law)"
            elif other != room and {other, room} <= {"codecs", "priors", "conditioners"}:
                yield f"{where}:{line}: codecs, priors and conditioners never import each other (second law)"
            elif room == "systems" and other in ("codecs", "priors", "conditioners"):
                yield f"{where}:{line}: systems know contracts only"
            elif other != room and FLOOR[other] >= FLOOR[room]:
                yield f"{where}:{line}: {room} (floor {FLOOR[room]}) imports {other} (floor {FLOOR[other]})"


def test_imports_follow_the_plan():
    assert list(breaches()) == []


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("def f():\n    from sfumato.nn.pictures.unet import UNet", [("nn", 2)]),
        ("from sfumato import nn, core", [("nn", 1), ("core", 1)]),
        ("import sfumato.priors.normal", [("priors", 1)]),
    ],
)
def test_the_reader_of_imports_sees_every_form(source, found):
    assert list(imports(ast.parse(source))) == found


# ---- circles ----


def module_of(path: Path, place: Path) -> str:
    """What a file is imported as: a study stands beside its fellows, a file of the package in it."""
    parts = [*(["sfumato"] if place == ROOT else []), *path.relative_to(place).with_suffix("").parts]
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported(tree: ast.AST, modules):
    """Those of `modules` that a file imports; under TYPE_CHECKING too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            inner = [f"{node.module}.{alias.name}" for alias in node.names]
            names = [name if name in modules else node.module for name in inner]
        else:
            continue
        yield from (name for name in names if name in modules)


@PLACES
def test_no_imports_go_in_a_circle(place):
    files = {module_of(path, place): path for path in sorted(place.rglob("*.py"))}
    graph = {name: set(imported(ast.parse(path.read_text()), files)) for name, path in files.items()}
    assert sum(map(len, graph.values())) >= len(files) // 2  # they are found at all
    graphlib.TopologicalSorter(graph).prepare()  # CycleError names the circle


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("import a.b, c", {"a.b"}),
        ("from a import b, x", {"a.b", "a"}),
        ("if TYPE_CHECKING:\n    from a.b import x", {"a.b"}),
        ("def f():\n    from d import a", set()),
    ],
)
def test_the_reader_of_modules_sees_every_form(source, found):
    assert set(imported(ast.parse(source), {"a", "a.b"})) == found


# ---- length ----


@PLACES
def test_no_file_is_too_long(place):
    lengths = {path.relative_to(place): len(path.read_text().splitlines()) for path in sorted(place.rglob("*.py"))}
    assert {str(path): n for path, n in lengths.items() if n > LINES["file"]} == {}


@PLACES
def test_no_function_is_too_long(place):
    found = {}
    for path in sorted(place.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                found[f"{path.relative_to(place)}:{node.lineno} {node.name}"] = node.end_lineno - node.lineno + 1
    assert {name: n for name, n in found.items() if n > LINES["function"]} == {}


# ---- haste ----


def test_importing_the_package_does_not_import_torch():
    """`import sfumato` must answer at once (< 0.6 s); torch alone takes longer than that."""
    code = "import sys, sfumato, sfumato.cli; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_recipe_over_a_latent_is_a_dozen_lines():
    """What `over` builds, and every recipe of the rooms latents and masked: decorator aside, docstring aside."""
    long = {}
    for path in sorted((ROOT / "recipes").glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.FunctionDef) or not any("add" in ast.dump(d) for d in node.decorator_list):
                continue
            calls = [call.func.id for call in ast.walk(node) if isinstance(call, ast.Call) and hasattr(call.func, "id")]
            words = (node.body[0].end_lineno or 0) - node.body[0].lineno + 1  # of the docstring
            lines = (node.end_lineno or 0) - node.lineno + 1 - words
            if "over" in calls and lines > 12:
                long[node.name] = lines
    assert long == {}
