"""What is said of a scene, in English and Chinese; every sentence below can be read back.

    English     caption  = clause {", " clause}
                clause   = noun [" " relation " " noun]
                noun     = count " " [size " "] color " " shape      count = "a" ("an" before orange), "two" … "eight"
                relation = "left of" | "right of" | "above" | "below"     two and more: the plural, "crosses" for cross
    Chinese     caption  = clause {"，" clause}
                clause   = noun | noun "在" noun "的" relation
                noun     = count "个" [size "的"] color shape             count = 一 两 三 四 五 六 七 八
                relation = 左边 | 右边 | 上方 | 下方

A caption names every object once; like ones are counted together. Two objects that are alone are told by their
relation, unless they are alike. a is left of b when x_a < x_b and |x_a − x_b| ≥ |y_a − y_b|, above b when y_a < y_b
and |y_a − y_b| > |x_a − x_b|, so that of two places exactly one relation holds. Choice 0 is the plain caption; others
shuffle, turn relations round and leave out sizes.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from sfumato.core.errors import DataError
from sfumato.core.noise import derive
from sfumato.data.scenes.draw import COLORS, SHAPES, SIZES, Object

RELATIONS = ("left of", "right of", "above", "below")
OPPOSITE = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}
_NUMBERS = ("two", "three", "four", "five", "six", "seven", "eight")
_COUNTS_ZH = dict(enumerate("一两三四五六七八", 1))
_ZH = {
    **dict(zip(COLORS, ["红色", "橙色", "黄色", "绿色", "青色", "蓝色", "紫色", "黑色"], strict=True)),
    **dict(zip(SHAPES, ["圆形", "正方形", "三角形", "菱形", "十字形"], strict=True)),
    **dict(zip(SIZES, "小大", strict=True)),
    **dict(zip(RELATIONS, ["左边", "右边", "上方", "下方"], strict=True)),
}


@dataclass(frozen=True)
class Noun:
    """`count` objects of a colour and shape, and of a size where one is named."""

    count: int
    color: str
    shape: str
    size: str | None = None


@dataclass(frozen=True)
class Meaning:
    """What a caption says: its nouns, and relations between nouns by number."""

    nouns: tuple[Noun, ...]
    relations: tuple[tuple[int, str, int], ...] = ()

    @property
    def objects(self) -> int:
        return sum(noun.count for noun in self.nouns)


def relation(a: Object, b: Object) -> str | None:
    """How a stands to b; None when both stand at one place."""
    dx, dy = a.x - b.x, a.y - b.y
    if dx == dy == 0:
        return None
    if abs(dx) >= abs(dy):
        return "left of" if dx < 0 else "right of"
    return "above" if dy < 0 else "below"


def meaning(objects: Sequence[Object], choice: int = 0) -> Meaning:
    """What caption `choice` of a scene says."""
    draw = random.Random(derive("scene caption", choice, *(str((o.kind, o.box)) for o in objects)))
    objects = list(objects)
    plain = choice == 0 or draw.random() < 0.5
    if choice:
        draw.shuffle(objects)
    tally = Counter((o.color, o.shape, o.size if plain else None) for o in objects)
    nouns = tuple(Noun(count, color, shape, size) for (color, shape, size), count in tally.items())
    how = relation(objects[0], objects[1]) if len(objects) == len(nouns) == 2 else None
    return Meaning(nouns, ((0, how, 1),) if how else ())


def describe(objects: Sequence[Object], language: str = "en", choice: int = 0) -> str:
    """The caption of a scene, in "en" or "zh"."""
    return say(meaning(objects, choice), language)


def say(what: Meaning, language: str = "en") -> str:
    noun = _noun_zh if language == "zh" else _noun_en
    said = [noun(n) for n in what.nouns]
    for a, how, b in what.relations:
        said[a] = f"{said[a]}在{said[b]}的{_ZH[how]}" if language == "zh" else f"{said[a]} {how} {said[b]}"
        said[b] = ""
    return ("，" if language == "zh" else ", ").join(filter(None, said))


def _plural(shape: str) -> str:
    return shape + ("es" if shape.endswith("s") else "s")


def _noun_en(n: Noun) -> str:
    words = [*([n.size] if n.size else []), n.color, n.shape if n.count == 1 else _plural(n.shape)]
    article = "an" if words[0][0] in "aeiou" else "a"
    return " ".join([article if n.count == 1 else _NUMBERS[n.count - 2], *words])


def _noun_zh(n: Noun) -> str:
    return f"{_COUNTS_ZH[n.count]}个{_ZH[n.size] + '的' if n.size else ''}{_ZH[n.color]}{_ZH[n.shape]}"


def _pattern_en() -> str:
    counts, shapes = "|".join(("an", "a", *_NUMBERS)), "|".join(f"{_plural(s)}|{s}" for s in SHAPES)
    return rf"({counts})(?: ({'|'.join(SIZES)}))? ({'|'.join(COLORS)}) ({shapes})"


def _pattern_zh() -> str:
    sizes, colors, shapes = ("|".join(_ZH[w] for w in names) for names in (SIZES, COLORS, SHAPES))
    return rf"([{''.join(_COUNTS_ZH.values())}])个(?:({sizes})的)?({colors})({shapes})"


_NOUN_EN, _NOUN_ZH = _pattern_en(), _pattern_zh()
_CLAUSE_EN = re.compile(rf"{_NOUN_EN}(?: ({'|'.join(RELATIONS)}) {_NOUN_EN})?")
_CLAUSE_ZH = re.compile(rf"{_NOUN_ZH}(?:在{_NOUN_ZH}的({'|'.join(_ZH[r] for r in RELATIONS)}))?")


def understand(caption: str) -> Meaning:
    """The inverse of `say`; DataError for a sentence that the grammar does not hold."""
    text = caption.strip().rstrip(".。").strip()
    chinese = "个" in text
    nouns: list[Noun] = []
    relations = []
    for clause in re.split(r"，|," if chinese else r",\s*", text):
        match = (_CLAUSE_ZH if chinese else _CLAUSE_EN).fullmatch(clause.strip() if chinese else clause.strip().lower())
        if match is None:
            raise DataError(
                f"{caption!r} is no caption of a scene: {clause!r} is not understood. Example: 'a small red circle'."
            )
        words = match.groups()
        first, second = words[:4], words[4:8] if chinese else words[5:9]
        how = words[8] if chinese else words[4]
        nouns.append(_read(first, chinese))
        if how:
            nouns.append(_read(second, chinese))
            relations.append((len(nouns) - 2, _FROM_ZH.get(how, how), len(nouns) - 1))
    return Meaning(tuple(nouns), tuple(relations))


_FROM_ZH = {value: key for key, value in _ZH.items()}
_SINGULAR = {_plural(shape): shape for shape in SHAPES}


def _read(words: Sequence[str | None], chinese: bool) -> Noun:
    count, size, color, shape = (word or "" for word in words)
    if chinese:
        number = next(n for n, character in _COUNTS_ZH.items() if character == count)
        return Noun(number, _FROM_ZH[color], _FROM_ZH[shape], _FROM_ZH[size] if size else None)
    return Noun(_NUMBERS.index(count) + 2 if count in _NUMBERS else 1, color, _SINGULAR.get(shape, shape), size or None)
