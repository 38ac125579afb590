"""The plan is a test: the order of the rooms and the two laws, read from the syntax tree (inside functions too)."""

import ast
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


def test_importing_the_package_does_not_import_torch():
    """`import sfumato` must answer at once (< 0.6 s); torch alone takes longer than that."""
    code = "import sys, sfumato, sfumato.cli; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
