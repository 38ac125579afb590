"""scenes as a data set: picture i of a split is drawn from derive(split, seed, i), at any side, when it is asked for.

A query is terms joined by +, as in "scenes:n=5000+objects=1-3+zh":
    n=N            how many pictures (20,000 for train, 2,000 for test)
    objects=A-B    how many objects in each (1-8)
    seed=K         another set of the same kind (0)
    en, zh         the language; both: captions take turns
    varied         captions beyond the plain one shuffle, turn relations round and leave out sizes
Picture i has A + i mod (B − A + 1) objects; its label says how many. Train and test share no seed; small scenes may
coincide by chance.
"""

from __future__ import annotations

import json
import re

import numpy as np
from PIL import Image

from sfumato.core.errors import UnknownName, UsageError
from sfumato.core.noise import derive
from sfumato.core.registry import nearest
from sfumato.data.fit import fit
from sfumato.data.scenes.draw import MOST, Object, arrange, render
from sfumato.data.scenes.words import describe
from sfumato.data.source import Source, Store

VERSION = 1  # of the drawing: another number is another fingerprint
COUNTS = {"train": 20_000, "test": 2_000}
_TERMS = {"n": r"\d+", "objects": r"\d+(-\d+)?", "seed": r"\d+", "en": "", "zh": "", "varied": ""}


def open_scenes(query: str, side: int | None, channels: int, split: str, language: str) -> Source:
    if split not in COUNTS:
        raise UnknownName(f"scenes has no split called {split!r}. {nearest(split, COUNTS)}")
    terms = _read(query)
    languages: list[str] = [term for term in ("en", "zh") if term in terms] or [language]
    if languages[0] not in ("en", "zh"):
        raise UnknownName(f"scenes has captions in en and zh, not in {language!r}.")
    count, seed, side = int(terms.get("n", COUNTS[split])), int(terms.get("seed", 0)), 32 if side is None else side
    low, _, high = terms.get("objects", f"1-{MOST}").partition("-")
    fewest, most = int(low), int(high or low)
    if not 1 <= fewest <= most <= MOST or count < 1:
        raise UsageError(
            f"A scene has 1 to {MOST} objects and a set at least one picture; {query!r} asks for something else."
        )

    kinds = most - fewest + 1

    def objects(i: int) -> list[Object]:
        return arrange(derive(split, seed, i), side, fewest + i % kinds)

    def load(i: int) -> np.ndarray:
        pixels = render(objects(i), side)
        return pixels if channels == 3 else fit(Image.fromarray(pixels.transpose(1, 2, 0)).convert("L"), side)

    def text(i: int, choice: int) -> str:
        return describe(objects(i), languages[choice % len(languages)], choice if "varied" in terms else 0)

    return Source(
        f"scenes:{query}" if query else "scenes",
        Store(count, (channels, side, side), load),
        range(count),
        identity=json.dumps(["scenes", VERSION, split, seed, count, fewest, most, languages, "varied" in terms]),
        label_ids=np.arange(count) % kinds,
        labels=[f"{n} object{'s' if n > 1 else ''}" for n in range(fewest, most + 1)],
        text=text,
        report={"sizes": {f"{side}x{side}": count}, "modes": {"RGB": count}},
    )


def _read(query: str) -> dict[str, str]:
    terms = {}
    for part in filter(None, (part.strip().lower() for part in query.split("+"))):
        key, _, value = part.partition("=")
        if key not in _TERMS:
            raise UnknownName(f"scenes has no setting called {key!r}. {nearest(key, _TERMS)}")
        if not re.fullmatch(_TERMS[key], value):
            example = {"objects": "1-3"}.get(key, "1000") if _TERMS[key] else ""
            raise UsageError(f"scenes does not understand {part!r}. Write {key + '=' + example if example else key}.")
        terms[key] = value
    return terms
