"""A system in a line, and as a small table for a notebook: its recipe, its latent space, its parameters."""

from __future__ import annotations

import html
from typing import Any

from torch import nn

PARTS = ("codec", "prior", "conditioner", "network")


def line(system: Any) -> str:
    """System(ldm, size s: Grid(4, 8, 8), 12.3 M parameters); of one composed by hand its parts instead of a recipe."""
    made = f"{type(system).__name__}({_recipe(system)}: {_space(system)}, {_count(_size(system))} parameters"
    return f"{made}, {len(system.classes)} classes)" if system.classes else f"{made})"


def table(system: Any) -> str:
    """The same as HTML, with the dials and the parameters of each part."""
    dials = {name: value for name, value in system.recipe.get("dials", {}).items() if name != "size"}
    rows = [("latent space", _space(system)), *dials.items()]
    rows += [(f"parameters of {name}", f"{_size(part):,}") for name, part in _parts(system) if _size(part)]
    rows.append(("parameters", f"{_size(system):,}"))
    if system.classes:
        more = " …" if len(system.classes) > 12 else ""
        rows.append(("classes", ", ".join(system.classes[:12]) + more))
    cells = "".join(f"<tr><th>{_said(name)}</th><td>{_said(value)}</td></tr>" for name, value in rows)
    return f"<table><caption>{_said(type(system).__name__)}: {_said(_recipe(system))}</caption>{cells}</table>"


def _recipe(system: Any) -> str:
    recipe = system.recipe
    if recipe:
        size = recipe.get("dials", {}).get("size")
        return f"{recipe['name']}, size {size}" if size else recipe["name"]
    return " ∘ ".join(type(part).__name__ for _, part in _parts(system))


def _parts(system: Any) -> list[tuple[str, nn.Module]]:
    if hasattr(system, "named"):  # a cascade's are its systems
        return system.named()
    return [(name, getattr(system, name)) for name in PARTS if getattr(system, name, None) is not None]


def _space(system: Any) -> Any:
    codec = getattr(getattr(system, "last", system), "codec", None)
    return "no latent" if codec is None else codec.space


def _size(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def _count(number: int) -> str:
    for unit, size in (("G", 10**9), ("M", 10**6), ("k", 10**3)):
        if number >= size:
            return f"{number / size:.1f} {unit}"
    return str(number)


def _said(value: Any) -> str:
    return html.escape(str(value))
