"""What is doubtful about a set whose every picture is sound: a sentence each, that says what and what now."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

FLAT = 2  # levels of 256 between the darkest and the lightest pixel of a picture that shows nothing
DARK = 64  # levels of 256 that no pixel exceeds where 14 bits or fewer lie in a 16-bit file
FEW = 100  # pictures below which a model learns by heart
LONG = 2.0  # times as long as wide, beyond which half of a picture is cropped away
PART = 0.1  # of the set, from which on a doubt about single pictures is one about the set
SIXTEEN = ("I;16", "I;16L", "I;16B", "I;16N", "I")
CLEAR = ("RGBA", "LA", "PA", "La", "RGBa", "P")  # modes that may be transparent


@dataclass(frozen=True)
class Seen:
    """What was seen of a picture when it was loaded: of its bytes, of itself, of its pixels as they will be shown."""

    digest: str
    width: int
    height: int
    mode: str
    low: int
    high: int
    animated: bool


class Named(Protocol):
    @property
    def file(self) -> str: ...

    @property
    def label(self) -> str | None: ...


def doubts(
    candidates: Sequence[Named], seen: Mapping[int, Seen], side: int, background: str | tuple[int, ...]
) -> Iterator[str]:
    """The warnings about the pictures `seen`, by their place among the candidates."""
    n = len(seen)
    yield from _twice(candidates, seen)
    if moving := [i for i, one in seen.items() if one.animated]:
        yield f"{len(moving)} animations give their first frame only ({candidates[moving[0]].file})."
    flat = [i for i, one in seen.items() if one.high - one.low <= FLAT]
    if flat and len(flat) >= PART * n:
        clear = any(seen[i].mode in CLEAR for i in flat)
        now = f" They are transparent, on {background}: try another --background." if clear else ""
        yield f"{len(flat)} of {n} pictures are of one colour all over ({candidates[flat[0]].file}).{now}"
    yield from _dark(seen)
    small = [one for one in seen.values() if min(one.width, one.height) < side]
    if len(small) >= PART * n and small:
        least = min(min(one.width, one.height) for one in small)
        yield f"{len(small)} of {n} pictures are smaller than {side} pixels (from {least} on) and are enlarged."
    long = [one for one in seen.values() if max(one.width, one.height) > LONG * min(one.width, one.height)]
    if len(long) >= PART * n and long:
        yield f"{len(long)} of {n} pictures are more than twice as long as wide: their middle square is less than half."
    if n < FEW:
        yield f"{n} pictures are few: a model will learn them by heart. --augment (gan) and short trainings help."


def _dark(seen: Mapping[int, Seen]) -> Iterator[str]:
    deep = [one.high for one in seen.values() if one.mode in SIXTEEN]
    highest = max((one.high for one in seen.values()), default=255)
    if deep and max(deep) <= DARK:
        bits = next(b for b in (8, 10, 12, 14) if max(deep) <= max(2 ** (b - 8), 1))
        yield (
            f"No pixel of the {len(deep)} 16-bit pictures is brighter than {max(deep)} of 255: they seem to hold "
            f"{bits} bits or fewer. Multiply their values by {2 ** (16 - bits)} (or stretch them to 65535) and save "
            "them again."
        )
    elif FLAT < highest <= DARK:
        yield (
            f"No pixel of the {len(seen)} pictures is brighter than {highest} of 255: they are nearly black. Stretch "
            "their values to 255 (of 16 bits: to 65535) and save them again."
        )


def _twice(candidates: Sequence[Named], seen: Mapping[int, Seen]) -> Iterator[str]:
    same = defaultdict(list)
    for i, one in seen.items():
        same[one.digest].append(i)
    copies = [places for places in same.values() if len(places) > 1]
    if not copies:
        return
    torn = [places for places in copies if len({candidates[i].label for i in places}) > 1]
    pair = " and ".join(candidates[i].file for i in copies[0][:2])
    yield f"{sum(len(places) - 1 for places in copies)} pictures are copies of others, byte for byte ({pair})."
    if torn:
        pair = " and ".join(f"{candidates[i].file} ({candidates[i].label})" for i in torn[0][:2])
        yield f"{len(torn)} pictures occur under two labels ({pair})."
