"""Bytes → a caption: Unicode NFC in one line, without control characters.

Rules, in this order:
    encoding    a byte order mark decides (UTF-8, -16, -32); without one UTF-8; other bytes and zeros are refused
    spaces      every run of white space, line breaks among it, becomes one space
    removed     control characters, lone surrogates, marks that turn the direction of writing, stray byte order marks
    kept        joiners and variation selectors, which emoji and several scripts need
    length      LONGEST characters; what is cut is counted and reported
"""

from __future__ import annotations

import codecs
import re
import unicodedata

from sfumato.core.errors import DataError

LONGEST = 2000
LARGEST_FILE = 2**20
_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),  # before UTF-16, whose mark it begins with
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_TURNING = {"\ufeff", "\u200e", "\u200f", *map(chr, range(0x202A, 0x202F)), *map(chr, range(0x2066, 0x206A))}


def encoding_of(start: bytes) -> str:
    """What the mark at the beginning says; without one UTF-8."""
    return next((encoding for mark, encoding in _MARKS if start.startswith(mark)), "utf-8")


def text_of(data: bytes, name: str) -> str:
    """Decoded text, as it stands; DataError for bytes of unknown encoding."""
    encoding = encoding_of(data)
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        raise DataError(f"{name} is not {encoding.upper()} text ({error.reason}); save it as UTF-8.") from error
    if "\0" in text:
        raise DataError(f"{name} holds zero bytes, so it is not text; save it as UTF-8.")
    return text


def clean(text: str, longest: int = LONGEST) -> tuple[str, bool]:
    """(the caption, whether it was cut)."""
    kept = unicodedata.normalize("NFC", re.sub(r"\s+", " ", text))
    if not kept.isprintable():  # what is removed does not print; to look at each character takes long
        kept = "".join(c for c in kept if unicodedata.category(c) not in ("Cc", "Cs") and c not in _TURNING)
    kept = kept.strip()
    return kept[:longest].rstrip(), len(kept) > longest
