"""C1: nothing in the package reads code or pickles from a file. Read from the syntax tree."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import sfumato

PACKAGE = Path(sfumato.__file__).parent
MODULES = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal", "dbm", "yaml"}
BUILTINS = {"eval", "exec", "compile", "__import__"}
CALLS = {"torch.load", "torch.save", "importlib.import_module", "importlib.__import__", "runpy.run_path"}
CALLS |= {"runpy.run_module", "torch.jit.load", "pkgutil.resolve_name", "pydoc.locate"}
KEYWORDS = {"allow_pickle", "trust_remote_code"}
EXCEPTIONS = {
    ("core/published.py", "torch.load"),  # a published .pth whose SHA-256 is in our table
    ("__init__.py", "importlib.import_module"),  # lazy names, from a table in the file itself: see the test below
}


def dotted(node: ast.AST) -> str:
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def offences(source: str) -> list[tuple[str, int]]:
    """(what, line) of everything that C1 forbids; `import torch as t` and `from torch import load` are seen through."""
    tree = ast.parse(source)
    alias: dict[str, str] = {}
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [(item.asname or item.name.split(".")[0], item.name) for item in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [(item.asname or item.name, f"{node.module}.{item.name}") for item in node.names]
        else:
            continue
        for name, full in names:
            alias[name] = full if isinstance(node, ast.ImportFrom) or name != full.split(".")[0] else name
            if full.split(".")[0] in MODULES:
                found.append((full, node.lineno))
    for node in ast.walk(tree):
        if isinstance(node, (ast.Name, ast.Attribute)):
            name = dotted(node)
            head, _, rest = name.partition(".")
            full = alias.get(head, head) + (f".{rest}" if rest else "")
            if full in CALLS or full in BUILTINS:
                found.append((full, node.lineno))
        if isinstance(node, ast.keyword) and node.arg in KEYWORDS:
            off = isinstance(node.value, ast.Constant) and node.value.value is False
            found += [] if off else [(node.arg, node.value.lineno)]
    return found


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_c1_no_file_brings_code(path):
    place = path.relative_to(PACKAGE).as_posix()
    left = [(what, line) for what, line in offences(path.read_text("utf8")) if (place, what) not in EXCEPTIONS]
    assert not left, f"{place} can run what it reads: {left}"


def test_c1_the_one_exception_loads_weights_only():
    tree = ast.parse((PACKAGE / "core" / "published.py").read_text("utf8"))
    calls = [n for n in ast.walk(tree) if isinstance(n, ast.Call) and dotted(n.func) == "torch.load"]
    assert len(calls) == 1
    given = {k.arg: k.value for k in calls[0].keywords}
    assert isinstance(given["weights_only"], ast.Constant)
    assert given["weights_only"].value is True


def test_c1_the_face_imports_only_what_it_names_itself():
    assert all(name.startswith("sfumato.") for name in sfumato._WHERE.values())
    tree = ast.parse((PACKAGE / "__init__.py").read_text("utf8"))
    calls = [n for n in ast.walk(tree) if isinstance(n, ast.Call) and dotted(n.func) == "importlib.import_module"]
    for argument in (call.args[0] for call in calls):
        constant = isinstance(argument, ast.Constant) and str(argument.value).startswith("sfumato.")
        assert constant or ast.unparse(argument) == "_WHERE[name]"


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from pickle import loads",
        "import torch\ntorch.load('f')",
        "import torch as t\nt.load('f')",
        "from torch import load as l\nl('f')",
        "from importlib import import_module\nimport_module(name)",
        "eval(text)",
        "run = exec",
        "import yaml",
        "np.load('f', allow_pickle=True)",
        "np.load('f', allow_pickle=flag)",
    ],
)
def test_c1_the_scan_has_teeth(source):
    assert offences(source)


def test_c1_the_scan_is_not_all_teeth():
    assert not offences(
        "import torch\nmodel.eval()\nre.compile('x')\ntorch.compile(f)\nnp.load('f', allow_pickle=False)"
    )
