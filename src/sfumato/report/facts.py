"""The section of the report that says what the run is: recipe, latent space, data, what was asked for."""

from __future__ import annotations

import contextlib
from typing import Any

from sfumato.core.errors import SfumatoError
from sfumato.core.space import Tokens
from sfumato.recipes import RECIPES
from sfumato.report import page
from sfumato.report.opened import Opened, history


def facts(opened: Opened) -> str:
    recipe, data = opened.recipe, opened.record("data.json")
    steps = history(opened.path)
    stages = list(dict.fromkeys(line["stage"] for line in steps if "stage" in line))
    dials = ", ".join(f"{key} = {value}" for key, value in sorted(recipe["dials"].items()) if value is not None)
    source = RECIPES[recipe["name"]].source if recipe["name"] in RECIPES else ""
    rows: list[tuple[str, Any]] = [
        ("Recipe", recipe["name"] + (f" ({source})" if source else "")),
        ("Dials", dials or "none"),
    ]
    with contextlib.suppress(SfumatoError):
        system = opened.system
        codec = getattr(getattr(system, "last", system), "codec", None)
        rows += [] if codec is None else [("Latent space", _space(codec.space, codec.data))]
        rows.append(("Parameters", f"{sum(p.numel() for p in system.parameters()):,}"))
    if data:
        size = f", shown at {data['side']} × {data['side']} pixels" if data.get("side") else ""
        held = f"{data['texts']:,} texts" if data.get("texts") else f"{data.get('images', 0):,} pictures{size}"
        rows.append(("Data", f"{data.get('name', 'unnamed')}: {held}"))
    rows += _asked_for(opened)
    rows.append(("Trained", f"{max((line['step'] for line in steps), default=0):,} steps" + _in_stages(stages)))
    versions = recipe.get("versions", {})
    rows.append(("Made with", ", ".join(f"{key} {value}" for key, value in versions.items())))
    return page.section("What this is", page.table(rows))


def _asked_for(opened: Opened) -> list[tuple[str, Any]]:
    """What the training was asked to do: its length, batch, precision, seed, and the device it ran on."""
    asked, ran = opened.record("train.json"), opened.record("data.json").get("training", {})
    if not asked:
        return []
    length = f"{asked['minutes']:g} minutes in all" if asked.get("minutes") else ""
    length = f"{asked['steps']:,} steps a stage" if asked.get("steps") else length
    words = [length or "as long as the recipe plans", f"precision {asked.get('precision', 'fp32')}"]
    words += [f"batches of {asked['batch']}"] if asked.get("batch") else []
    words += [f"seed {asked.get('seed', 0)}"]
    words += [f"on {ran['device']}"] if isinstance(ran, dict) and ran.get("device") else []
    return [("Asked for", ", ".join(words))]


def _in_stages(stages: list[str]) -> str:
    return f", in the stages {', then '.join(stages)}" if len(stages) > 1 else ""


def _space(space: Any, data: Any) -> str:
    if space == data and isinstance(space, Tokens):
        return f"texts of {space.length} tokens at most, each one of {space.vocab}"
    if space == data:
        return f"the picture itself, {' × '.join(map(str, space.shape))}"
    if isinstance(space, Tokens):
        where = f", laid out {space.layout[0]} × {space.layout[1]}" if space.layout else ""
        return f"{space.length} tokens, each one of {space.vocab}{where}"
    return f"{' × '.join(map(str, space.shape))} numbers for {' × '.join(map(str, data.shape))} of the picture"
