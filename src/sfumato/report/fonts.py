"""Fonts that are there without asking for any: Pillow's own, and those of the system.

Pillow carries one (Aileron: Latin letters and little else). For other scripts the folders are walked in which systems
keep their fonts, and a font is asked which characters it has. That stands in its table `cmap`, of which two forms are
in use: 4 (segments of 16-bit codes) and 12 (groups of 32-bit codes).
Format: https://learn.microsoft.com/typography/opentype/spec/cmap.
"""

from __future__ import annotations

import functools
import os
import struct
from collections.abc import Iterator
from pathlib import Path

from PIL import ImageFont

LETTERS = 13  # pixels, the size of a caption
EMBEDDED = ""  # the path that stands for Pillow's own
SUFFIXES = (".ttf", ".otf", ".ttc")
PLAIN = ("dejavusans.ttf", "notosans-regular.ttf", "liberationsans-regular.ttf", "segoeui.ttf", "arial.ttf")
SCRIPTS = (
    *("cjk", "wqy", "droidsansfallback", "unifont", "thai", "garuda", "noto", "freesans", "arphic", "uming"),
    *("pingfang", "hiragino", "msyh", "simsun", "malgun", "yugoth", "nirmala", "leelawui", "arial unicode"),
)
SEEN = 20_000  # files of the folders; a tree that is larger was not made for fonts
LARGEST = 1 << 27  # bytes; the largest of common fonts has 40 MB

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


@functools.lru_cache
def font(path: str) -> Font:
    """The font at a path in the size of a caption."""
    return ImageFont.load_default(LETTERS) if path == EMBEDDED else ImageFont.truetype(path, LETTERS)


@functools.lru_cache
def font_files() -> tuple[str, ...]:
    """Pillow's own, then plain ones of the system, then those that are made for many scripts or one."""
    found = sorted(_system_fonts(), key=lambda path: path.name.lower())
    plain = sorted((p for p in found if p.name.lower() in PLAIN), key=lambda p: PLAIN.index(p.name.lower()))
    wide = [p for p in found if any(word in p.name.lower() for word in SCRIPTS) and p not in plain]
    return (EMBEDDED, *map(str, plain), *map(str, wide))


def folders() -> list[Path]:
    """Where systems keep fonts: those of XDG, of macOS, of Windows."""
    home = Path.home()
    data = [os.environ.get("XDG_DATA_HOME") or str(home / ".local/share")]
    data += (os.environ.get("XDG_DATA_DIRS") or "/usr/local/share:/usr/share").split(":")
    found = [Path(place) / "fonts" for place in data if place] + [home / ".fonts"]
    found += [home / "Library/Fonts", Path("/Library/Fonts"), Path("/System/Library/Fonts")]
    for variable, below in (("WINDIR", "Fonts"), ("LOCALAPPDATA", "Microsoft/Windows/Fonts")):
        if os.environ.get(variable):
            found.append(Path(os.environ[variable]) / below)
    return found


def _system_fonts() -> Iterator[Path]:
    seen = 0
    for folder in folders():
        for place, _, names in os.walk(folder):  # links to folders are not followed
            for name in names:
                seen += 1
                if seen > SEEN:
                    return
                if name.lower().endswith(SUFFIXES):
                    yield Path(place) / name


@functools.lru_cache
def characters(path: str) -> frozenset[int]:
    """The code points that a font has; none of a file that is no font."""
    if path == EMBEDDED:
        content = getattr(font(EMBEDDED), "font_bytes", None)
        return read_characters(content) if content else frozenset(range(0x20, 0x7F))  # Pillow without FreeType
    try:
        if not os.path.isfile(path) or os.path.getsize(path) > LARGEST:
            return frozenset()
        found = read_characters(Path(path).read_bytes())
        font(path)  # what FreeType cannot open is of no use
    except OSError:
        return frozenset()
    return found


def read_characters(content: bytes) -> frozenset[int]:
    """The code points of a TrueType or OpenType file, of a collection those of its first font."""
    try:
        start = struct.unpack_from(">I", content, 12)[0] if content[:4] == b"ttcf" else 0
        tables = struct.unpack_from(">H", content, start + 4)[0]
        records = (struct.unpack_from(">4sIII", content, start + 12 + 16 * i) for i in range(tables))
        cmap = next(offset for tag, _, offset, _ in records if tag == b"cmap")
        count = struct.unpack_from(">H", content, cmap + 2)[0]
        found: set[int] = set()
        for i in range(count):
            platform, encoding, offset = struct.unpack_from(">HHI", content, cmap + 4 + 8 * i)
            if platform == 0 or (platform == 3 and encoding in (1, 10)):  # Unicode, by either word
                found |= _subtable(content, cmap + offset)
        return frozenset(found)
    except (struct.error, StopIteration, OverflowError):
        return frozenset()


def _subtable(content: bytes, at: int) -> set[int]:
    form = struct.unpack_from(">H", content, at)[0]
    if form == 4:
        return _segments(content, at)
    if form == 12:
        count = struct.unpack_from(">I", content, at + 12)[0]
        groups = (struct.unpack_from(">III", content, at + 16 + 12 * i) for i in range(count))
        return {
            code
            for first, last, glyph in groups
            for code in range(first, min(last, 0x10FFFF) + 1)
            if glyph + code - first  # 0 is the glyph of what is missing
        }
    return set()


def _segments(content: bytes, at: int) -> set[int]:
    """Format 4: codes first … last of a segment are glyphs code + delta, or stand in an array; glyph 0 is none."""
    count = struct.unpack_from(">H", content, at + 6)[0] // 2
    rows = [struct.unpack_from(f">{count}H", content, at + 14 + 2 * count * k + (2 if k else 0)) for k in range(4)]
    found = set()
    for i, (last, first, delta, reach) in enumerate(zip(*rows)):
        for code in range(first, last + 1):
            glyph = code
            if reach:
                place = at + 16 + 6 * count + 2 * i + reach + 2 * (code - first)
                glyph = struct.unpack_from(">H", content, place)[0]
            if code != 0xFFFF and (glyph + delta) % 0x10000 and (glyph or not reach):
                found.add(code)
    return found
