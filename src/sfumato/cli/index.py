"""What there is, without importing it: recipes with their dials, codecs, priors, data sets, metrics.

The tables themselves are code that imports torch, which takes seconds; a list and a help text must not. So what they
say is written down in index.json by tools/make_index.py, and a test compares every word of it with the tables (`live`).
"""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

from sfumato.cli.kind import kind

PLACE = Path(__file__).with_name("index.json")
TOPICS = ("recipes", "codecs", "priors", "data", "metrics")
Row = dict[str, Any]


@functools.cache
def index() -> dict[str, list[Row]]:
    """{topic: rows}, as `live` gives them."""
    return json.loads(PLACE.read_text(encoding="utf-8"))


def dials_of(recipe: str) -> list[Row]:
    """The dials of a recipe: {"name", "kind", "choices", "default", "help"}. A pair CODEC+PRIOR is in no list and is
    composed; UnknownName for neither."""
    found = next((row["dials"] for row in index()["recipes"] if row["name"] == recipe), None)
    if found is not None:
        return found
    from sfumato.recipes import RECIPES

    return _dials(RECIPES[recipe])


def known(word: str) -> bool:
    """Whether a word is the name of a recipe."""
    if any(row["name"] == word for row in index()["recipes"]):
        return True
    if "+" not in word:
        return False
    from sfumato.recipes import RECIPES

    return word in RECIPES


def live() -> dict[str, list[Row]]:
    """What the tables say."""
    from sfumato.data import names
    from sfumato.metrics import METRICS
    from sfumato.recipes import RECIPES, latents
    from sfumato.recipes.priors import PRIORS

    codecs = [_row(name, RECIPES[name]) for name in latents.LEARNED]
    codecs += [{"name": name, "summary": about, "source": ""} for name, about in latents.READINGS.items()]
    data = [{"name": name, "summary": about, "source": "embedded"} for name, about in names().items()]
    data.append({"name": "PATH", "summary": "a folder, archive, webdataset or `datasets` directory", "source": "you"})
    texts = "texts: .txt, .jsonl, .csv, .tsv or .parquet, a folder of them, or SET:captions"
    data.append({"name": "TEXTS", "summary": texts, "source": "you"})
    data.append({"name": "hub:owner/name", "summary": "a data set of the hub", "source": "Hugging Face"})
    return {
        "recipes": [
            {**_row(name, recipe), "can": list(recipe.can), "dials": _dials(recipe)} for name, recipe in RECIPES.items()
        ],
        "codecs": codecs,
        "priors": [_row(name, choice) for name, choice in PRIORS.items()],
        "data": data,
        "metrics": [
            {"name": name, "summary": m.about, "source": m.source, "needs": m.needs, "better": m.better}
            for name, m in METRICS.items()
        ],
    }


def _row(name: str, thing: Any) -> Row:
    return {"name": name, "summary": thing.summary, "source": thing.source}


def _dials(recipe: Any) -> list[Row]:
    return [
        {
            "name": name,
            "kind": kind(dial.type),
            "choices": None if dial.choices is None else list(dial.choices),
            "default": dial.default,
            "help": dial.help,
        }
        for name, dial in recipe.dials.items()
    ]
