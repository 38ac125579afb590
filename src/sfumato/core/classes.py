"""Which class a word means. The names of a model's classes travel with it, in the order of their numbers.

    a name       the class that is called so; else the one whose name is the same number ("2.0" is "2")
    an index     a whole number where no class is called by a number, so that none could be meant
    neither      refused: with the nearest name, or with both readings of the number

Names and words are compared in Unicode's composed form (NFC).
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

from sfumato.core.errors import UsageError
from sfumato.core.registry import nearest


def class_number(word: str, names: Sequence[str], count: int | None = None) -> int:
    """The number of the class that a word means, among `names` in the order of their numbers, or, where no names are
    known, among `count`. UsageError says what would do."""
    asked = _plain(word)
    known = [_plain(name) for name in names]
    if asked in known:
        return known.index(asked)
    value = number(asked)
    if value is None:
        if not known:
            raise UsageError(f"--label {word!r} is no number, and this model does not know the names of its classes.")
        raise UsageError(f"No class is called {word!r}. {nearest(asked, known)}")
    same = [i for i, name in enumerate(known) if number(name) == value]
    if len(same) == 1:
        return same[0]
    if len(same) > 1:
        both = " and ".join(repr(known[i]) for i in same)
        raise UsageError(f"{word!r} could be the class {both}. Write it as the class is written.")
    index = int(value) if value.is_integer() else None
    most = len(known) or count
    possible = index is not None and index >= 0 and (most is None or index < most)
    if any(number(name) is not None for name in known):
        reading = f", and as an index it would be {known[index]!r}" if possible and index is not None else ""
        raise UsageError(f"No class is called {word!r}{reading}. Say the name: {_listed(known)}.")
    if not possible or index is None:
        raise UsageError(f"There is no class of number {word}: there are {most}, from 0 to {most - 1 if most else 0}.")
    return index


def number(text: str) -> float | None:
    """The number that a text is, or None: "2", "2.0", "-1", but not "nan", "1e999" or "2 cats"."""
    try:
        value = float(text)
    except ValueError:
        return None
    return value if abs(value) < 2**53 else None  # which leaves out NaN and the infinities too


def natural(name: str) -> tuple[int, float, str]:
    """The order in which names of classes are numbered: numbers by their value first, then words."""
    value = number(name)
    return (1, 0.0, name) if value is None else (0, value, name)


def _plain(name: str) -> str:
    return unicodedata.normalize("NFC", str(name)).strip()


def _listed(names: Sequence[str], most: int = 12) -> str:
    more = f" … ({len(names)} in all)" if len(names) > most else ""
    return ", ".join(names[:most]) + more
