"""Reading a picture of shapes back, and judging it against a caption.

Seeing. A pixel p is white + a (c − white) + e; for each colour a = ⟨p − w, c − w⟩ / |c − w|² and e is what is left.
It belongs to the colour with the least |e|, if a ≥ ½ and |e| ≤ LEFT · |c − w|. Connected pixels (4 neighbours) of one
colour are an object, if they are at least half as many as those of the smallest shape. Its size is that whose
diameter is nearest to the longer side of their box, in logarithms; its shape the one with the largest score

    Σ min(a, template) / Σ max(a, template)         over the object and the soft edge around it.

Exact for every scene that `render` draws from SMALLEST px on. On a generated picture, objects with a score under SURE
are not counted.

Judging. Of the objects that a caption names (a multiset), and those that are seen:
    count        1 if they are equally many, else 0
    attributes   mean over colours, shapes and named sizes of the part of the named that is seen, in whatever objects
    binding      the part of the named objects that is seen with all its attributes in one object
    relations    the part of the named relations that holds between some objects of those kinds; absent if none is named
    correct      1 if all of the above are 1, else 0
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Iterable
from typing import Any

import numpy as np
from torch import Tensor

from sfumato.core.errors import DataError
from sfumato.data.scenes.draw import COLORS, SHAPES, SIZES, Object, coverage, diameter
from sfumato.data.scenes.words import Meaning, Noun, relation, understand

LEFT = 0.35
SURE = 0.6
SMALLEST = 24


def parse(image: Tensor | np.ndarray) -> list[Object]:
    """The objects in a (3, S, S) picture, uint8 or float in [−1, 1], from the upper left to the lower right."""
    return [found for found, _ in see(image)]


def see(image: Tensor | np.ndarray) -> list[tuple[Object, np.ndarray]]:
    """The objects with their masks, (S, S) bool."""
    colors, amounts = _color_of(_as_bytes(image))
    side = colors.shape[0]
    least = min(int((coverage(shape, diameter("small", side)) >= 0.5).sum()) for shape in SHAPES) / 2
    found = []
    for k, color in enumerate(COLORS):
        for mask in _islands(colors == k):
            if mask.sum() >= least:
                found.append((_recognise(mask, amounts[k] * _grown(mask), color, side), mask))
    return sorted(found, key=lambda pair: (pair[0].box[1], pair[0].box[0]))


def judge(image: Tensor | np.ndarray, caption: str | Meaning) -> dict[str, float]:
    """Scores in [0, 1] of a picture against a caption (or what one means)."""
    said = understand(caption) if isinstance(caption, str) else caption
    seen = [o for o in parse(image) if o.score >= SURE]
    scores = {
        "count": float(len(seen) == said.objects),
        "attributes": _attributes(said, seen),
        "binding": _binding(said.nouns, seen),
    }
    if said.relations:
        held = [_holds(said.nouns[a], how, said.nouns[b], seen) for a, how, b in said.relations]
        scores["relations"] = sum(held) / len(held)
    return {**scores, "correct": float(all(score == 1 for score in scores.values()))}


def _as_bytes(image: Any) -> np.ndarray:
    """(S, S, 3) float64 in 0 … 255."""
    pixels = image.detach().cpu().numpy() if isinstance(image, Tensor) else np.asarray(image)
    if pixels.ndim != 3 or pixels.shape[0] != 3 or pixels.shape[1] != pixels.shape[2] or pixels.shape[1] < SMALLEST:
        raise DataError(f"A scene is read from a (3, S, S) picture with S ≥ {SMALLEST}, not from {pixels.shape}.")
    if pixels.dtype != np.uint8:
        pixels = (pixels.astype(np.float64).clip(-1, 1) + 1) * 127.5
    return pixels.astype(np.float64).transpose(1, 2, 0)


def _color_of(pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(S, S) int: which colour, −1 for the background and for what is none of them; each colour's a in [0, 1]."""
    away = np.nan_to_num(pixels - 255.0)
    amount, rest = [], []
    for color in COLORS.values():
        direction = np.array(color) - 255.0
        length = float(np.linalg.norm(direction))
        a = away @ direction / length**2
        amount.append(a)
        rest.append(np.linalg.norm(away - a[..., None] * direction, axis=-1) / length)
    nearest = np.argmin(rest, 0)
    pick = functools.partial(np.take_along_axis, indices=nearest[None], axis=0)
    good = (pick(np.stack(amount))[0] >= 0.5) & (pick(np.stack(rest))[0] <= LEFT)
    return np.where(good, nearest, -1), np.stack(amount).clip(0, 1)


def _islands(mask: np.ndarray) -> Iterable[np.ndarray]:
    """The connected parts of a bool picture, by spreading the least number of a part to its neighbours."""
    if not mask.any():
        return
    none = mask.size
    number = np.where(mask, np.arange(none).reshape(mask.shape), none)
    while True:
        wide = np.pad(number, 1, constant_values=none)
        around = [number, wide[:-2, 1:-1], wide[2:, 1:-1], wide[1:-1, :-2], wide[1:-1, 2:]]
        spread = np.where(mask, np.minimum.reduce(around), none)
        if (spread == number).all():
            break
        number = spread
    for part in np.unique(number[mask]):
        yield number == part


def _grown(mask: np.ndarray) -> np.ndarray:
    """The mask and all pixels that touch it, where soft edges lie."""
    wide, (height, width) = np.pad(mask, 1), mask.shape
    return np.logical_or.reduce([wide[y : y + height, x : x + width] for y in range(3) for x in range(3)])


def _recognise(mask: np.ndarray, amount: np.ndarray, color: str, side: int) -> Object:
    """`amount` (S, S) is how much of each pixel the object covers, zero away from it."""
    (y0, y1), (x0, x1) = _extent(mask.any(1)), _extent(mask.any(0))
    longer = max(y1 - y0, x1 - x0) + 1
    size = min(SIZES, key=lambda s: abs(np.log(longer / diameter(s, side))))
    d = diameter(size, side)
    fits = {shape: _overlap(mask, amount, shape, d) for shape in SHAPES}
    shape = max(fits, key=lambda s: fits[s][0])
    score, (x, y) = fits[shape]
    return Object(color, shape, size, x + d / 2, y + d / 2, (x, y, x + d, y + d), score)


def _extent(line: Any) -> tuple[int, int]:
    places = np.flatnonzero(line)
    return int(places[0]), int(places[-1])


def _overlap(mask: np.ndarray, amount: np.ndarray, shape: str, d: int) -> tuple[float, tuple[int, int]]:
    """The best score of a shape, and the corner (x, y) of its box: centred on the mask, or a pixel beside."""
    template = coverage(shape, d)
    corner = []
    for axis in (0, 1):
        seen, drawn = _extent(mask.any(axis)), _extent((template >= 0.5).any(axis))
        corner.append(round((sum(seen) - sum(drawn)) / 2))
    total, wide, pad = amount.sum() + template.sum(), np.pad(amount, d + 1), d + 1
    best = (-1.0, (0, 0))
    for y in (corner[1], corner[1] - 1, corner[1] + 1):
        for x in (corner[0], corner[0] - 1, corner[0] + 1):
            window = wide[y + pad : y + pad + d, x + pad : x + pad + d]
            if window.shape == template.shape:
                both = float(np.minimum(window, template).sum())
                best = max(best, (both / (total - both), (x, y)), key=lambda pair: pair[0])
    return best


def _part(named: Counter, seen: Counter) -> float:
    return sum((named & seen).values()) / sum(named.values())


def _attributes(said: Meaning, seen: list[Object]) -> float:
    parts = []
    for attribute in ("color", "shape", "size"):
        named: Counter = Counter()
        for noun in said.nouns:
            if getattr(noun, attribute) is not None:
                named[getattr(noun, attribute)] += noun.count
        if named:
            parts.append(_part(named, Counter(getattr(o, attribute) for o in seen)))
    return sum(parts) / len(parts)


def _is(noun: Noun, o: Object) -> bool:
    return (noun.color, noun.shape) == (o.color, o.shape) and noun.size in (None, o.size)


def _binding(nouns: Iterable[Noun], seen: list[Object]) -> float:
    """Nouns that name a size choose first, so that one without takes what is left."""
    left, hits, total = list(seen), 0, 0
    for noun in sorted(nouns, key=lambda n: n.size is None):
        for _ in range(noun.count):
            total += 1
            match = next((o for o in left if _is(noun, o)), None)
            if match is not None:
                left.remove(match)
                hits += 1
    return hits / total


def _holds(a: Noun, how: str, b: Noun, seen: list[Object]) -> bool:
    return any(_is(a, p) and _is(b, q) and relation(p, q) == how for p in seen for q in seen if p is not q)
