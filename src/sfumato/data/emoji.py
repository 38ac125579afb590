"""Emoji: coloured pictures whose true caption is known, in three styles and several languages; our text-to-image set.

A picture is a pair (emoji, style). Its caption is the emoji's name plus the style: "red apple, flat". Styles: flat
(Twemoji), 3d (Fluent), noto (Noto). The package ships a part at 32 px without skin variants; `emoji_folder` reads the
full set at 64 px.

Splits are by base emoji, never by file, and fixed by hashes of its code points, with u = SHA-256(salt/code[/style])
as a number in [0, 1):
    unseen-emoji    u(code) < 0.10: held out in all styles
    unseen-pairs    else u(code, style) < 0.15, unless that is the emoji's largest u: held out, seen in another style
    train           all others.          test is another name for unseen-pairs

A query is terms joined by +, as in "emoji:food+faces+3d+zh". Terms of one kind unite, kinds intersect:
    style       flat  3d  noto
    topic       a group (food-drink) or a subgroup (cat-face), or one of: faces food animals people travel hands plants
    split       train  test  unseen-pairs  unseen-emoji  all          goes before the argument of `open_data`
    language    en  zh  de  pt  th                                     several: captions take turns
    keywords    captions beyond the plain one add up to two keywords, or replace the name by them
    labels      by-group (default)  by-subgroup  by-style  by-emoji
    skin        in the full set: skin variants too
"""

from __future__ import annotations

import functools
import gzip
import hashlib
import io
import json
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from PIL import Image

from sfumato.core.errors import DataError, UnknownName
from sfumato.core.noise import derive
from sfumato.core.registry import nearest
from sfumato.data.decode import background_color, opaque, read
from sfumato.data.fit import fit
from sfumato.data.source import Source, Store

STYLES = ("flat", "3d", "noto")
SPLITS = ("train", "unseen-pairs", "unseen-emoji", "all")
LABELS = ("by-group", "by-subgroup", "by-style", "by-emoji")
FILES = {"flat": "twemoji_64.npz", "3d": "fluent3d_64.npz", "noto": "noto_64.npz"}
TOPICS = {
    "faces": lambda row: row["subgroup"].startswith("face-"),
    "food": lambda row: row["group"] == "food-drink",
    "animals": lambda row: row["subgroup"].startswith("animal-"),
    "plants": lambda row: row["subgroup"].startswith("plant-"),
    "people": lambda row: row["group"] == "people-body" and not row["subgroup"].startswith("hand"),
    "hands": lambda row: row["subgroup"].startswith("hand"),
    "travel": lambda row: row["group"] == "travel-places",
}
LARGEST_TABLE = 64 * 2**20
Sprite = Callable[[int, str], Image.Image]  # row of the table, style → RGBA


def _unit(*parts: str) -> float:
    return int.from_bytes(hashlib.sha256("/".join(("sfumato emoji", *parts)).encode()).digest()[:8], "big") / 2**64


def split_of(code: str, style: str, styles: Sequence[str] = STYLES) -> str:
    """The split of the base emoji `code` ("1F34E") in `style`, when it is drawn in `styles`."""
    if _unit(code) < 0.10:
        return "unseen-emoji"
    mine, others = _unit(code, style), [_unit(code, s) for s in styles]
    return "unseen-pairs" if mine < 0.15 and mine < max(others) else "train"


@dataclass(frozen=True)
class Table:
    """What is known of a set of emoji: one row each, and the styles that each is drawn in."""

    name: str
    rows: list[dict[str, Any]]
    styles: list[tuple[str, ...]]
    sprite: Sprite
    side: int
    digest: str

    def base(self, i: int) -> str:
        return self.rows[i].get("base") or self.rows[i]["hex"]


@dataclass(frozen=True)
class Query:
    styles: frozenset[str]
    topics: tuple[str, ...]
    splits: frozenset[str]
    languages: tuple[str, ...]
    labels: str = "by-group"
    keywords: bool = False
    skin: bool = False


def read_query(query: str, table: Table, split: str, language: str) -> Query:
    """The terms of "food+3d"; an unknown one is answered with the nearest."""
    topics = {*TOPICS, *(row["group"] for row in table.rows), *(row["subgroup"] for row in table.rows)}
    languages = tuple(table.rows[0]["name"])
    kinds = {**dict.fromkeys(topics, "topic"), **dict.fromkeys(languages, "language")}
    kinds |= {**dict.fromkeys((*SPLITS, "test"), "split"), **dict.fromkeys(STYLES, "style")}
    kinds |= {**dict.fromkeys(LABELS, "labels"), "keywords": "keywords", "skin": "skin"}
    found: dict[str, list[str]] = {}
    for term in filter(None, (term.strip().lower() for term in query.split("+"))):
        if term not in kinds:
            raise UnknownName(f"The emoji set has no part called {term!r}. {nearest(term, kinds)}")
        found.setdefault(kinds[term], []).append(term)
    for kind, given, known in (("split", split, (*SPLITS, "test")), ("language", language, languages)):
        if given not in known:
            raise UnknownName(f"The emoji set has no {kind} called {given!r}. {nearest(given, known)}")
    splits = {"unseen-pairs" if s == "test" else s for s in found.get("split", [split])}
    return Query(
        styles=frozenset(found.get("style", STYLES)),
        topics=tuple(found.get("topic", ())),
        splits=frozenset(SPLITS[:-1] if "all" in splits else splits),
        languages=tuple(found.get("language", [language])),
        labels=found.get("labels", ["by-group"])[-1],
        keywords="keywords" in found,
        skin="skin" in found,
    )


def select(table: Table, query: Query) -> list[tuple[int, str]]:
    """The pairs (row, style) that a query names, style by style within each emoji."""

    def wanted(row: dict[str, Any]) -> bool:
        on_topic = any(TOPICS[t](row) if t in TOPICS else t in (row["group"], row["subgroup"]) for t in query.topics)
        return (on_topic or not query.topics) and (query.skin or not row.get("skin_variant"))

    return [
        (i, style)
        for i, row in enumerate(table.rows)
        if wanted(row)
        for style in table.styles[i]
        if style in query.styles and split_of(table.base(i), style, table.styles[i]) in query.splits
    ]


def caption(row: dict[str, Any], style: str, query: Query, choice: int = 0) -> str:
    """ "name, style"; further choices take the languages in turn and, where asked for, keywords."""
    language = query.languages[choice % len(query.languages)]
    name, tags = row["name"][language], [t for t in row["tags"][language] if t != row["name"][language]]
    if not query.keywords or not choice or not tags:
        return f"{name}, {style}"
    draw = derive("emoji caption", row["hex"], style, choice)
    words = [tags[(draw // 7 + k) % len(tags)] for k in range(min(len(tags), 1 + draw % 2))]
    return ", ".join([*([name] if draw // 3 % 2 else []), *words, style])


def open_emoji(
    table: Table,
    query: str,
    side: int | None,
    channels: int,
    background: str | tuple[int, ...],
    split: str,
    language: str,
) -> Source:
    asked = read_query(query, table, split, language)
    pairs = select(table, asked)
    if not pairs:
        raise DataError(f"{table.name}:{query} selects no picture ({table.name} holds {sum(map(len, table.styles))}).")
    side = table.side if side is None else side

    def load(k: int) -> np.ndarray:
        i, style = pairs[k]
        return fit(opaque(table.sprite(i, style), f"{table.name}, {style}", channels, background), side)

    def name(i: int, style: str) -> str:
        row = table.rows[i]
        return {
            "by-group": row["group"],
            "by-subgroup": row["subgroup"],
            "by-style": style,
            "by-emoji": row["name"]["en"],
        }[asked.labels]

    labels = sorted({name(i, style) for i in range(len(table.rows)) for style in table.styles[i]})
    number = {label: k for k, label in enumerate(labels)}
    identity = json.dumps(
        [table.digest, [*map(list, pairs)], background_color(background), asked.labels, asked.languages, asked.keywords]
    )
    return Source(
        f"{table.name}:{query}" if query else table.name,
        Store(len(pairs), (channels, side, side), load),
        range(len(pairs)),
        identity=hashlib.sha256(identity.encode()).hexdigest(),
        label_ids=np.array([number[name(i, style)] for i, style in pairs]),
        labels=labels,
        text=lambda k, choice: caption(table.rows[pairs[k][0]], pairs[k][1], asked, choice),
        report={
            "sizes": {f"{table.side}x{table.side}": len(pairs)},
            "modes": {"RGBA": len(pairs)},
            "splits": sorted(asked.splits),
        },
    )


@functools.cache
def embedded_table() -> Table:
    """The part that the package ships, made by tools/make_emoji.py; licences in NOTICE."""
    folder = resources.files("sfumato.data") / "embedded"
    contents = {style: (folder / f"emoji_{style}.webp").read_bytes() for style in STYLES}
    table = (folder / "emoji.jsonl.gz").read_bytes()
    rows = [json.loads(line) for line in gzip.decompress(table).decode().splitlines()]
    sheets = {style: np.asarray(Image.open(io.BytesIO(data), formats=["WEBP"])) for style, data in contents.items()}

    def sprite(i: int, style: str) -> Image.Image:
        columns = sheets[style].shape[1] // 32
        y, x = 32 * (i // columns), 32 * (i % columns)
        return Image.fromarray(sheets[style][y : y + 32, x : x + 32])

    digest = hashlib.sha256(b"".join([table, *contents.values()])).hexdigest()
    return Table("emoji", rows, [STYLES] * len(rows), sprite, 32, digest)


@functools.lru_cache(maxsize=2)
def emoji_folder(folder: Path) -> Table:
    """The full set: captions.jsonl.gz, and one npz per style with `data`, `offsets` and `row`."""
    try:
        return _read_folder(folder)
    except (OSError, EOFError, ValueError, KeyError, TypeError, RecursionError, zlib.error, BadZipFile) as error:
        raise DataError(f"{folder} has the names of the emoji set, but cannot be read: {str(error)[:200]}.") from error


def _read_folder(folder: Path) -> Table:
    table = read(folder / "captions.jsonl.gz")
    with gzip.open(io.BytesIO(table)) as packed:
        lines = packed.read(LARGEST_TABLE + 1)
    if len(lines) > LARGEST_TABLE:
        raise DataError(f"{folder}/captions.jsonl.gz has more than {LARGEST_TABLE} bytes.")
    rows = [json.loads(line) for line in lines.decode().splitlines()]
    rows = [{**row, "group": row["group"] or "other", "subgroup": row["subgroup"] or "other"} for row in rows]
    digest, blobs, places = hashlib.sha256(table), {}, {}
    for style, file in FILES.items():
        with np.load(folder / file, allow_pickle=False) as z:
            blobs[style], offsets, row = z["data"].tobytes(), z["offsets"], z["row"]
        digest.update(blobs[style])
        places[style] = {int(r): (int(offsets[k]), int(offsets[k + 1])) for k, r in enumerate(row)}

    def sprite(i: int, style: str) -> Image.Image:
        start, end = places[style][i]
        return Image.open(io.BytesIO(blobs[style][start:end]), formats=["WEBP"])

    styles = [tuple(s for s in STYLES if i in places[s]) for i in range(len(rows))]
    return Table("emoji-64", rows, styles, sprite, 64, digest.hexdigest())


def is_emoji_folder(folder: Path) -> bool:
    return all((folder / name).is_file() for name in ("captions.jsonl.gz", *FILES.values()))
