"""What a system reads and draws, by the entries of a batch that its codec reads.

image            (n, C, H, W) float in [−1, 1]
text             n strings
of two entries   a tuple of both, row i of one beside row i of the other
of neither       a codec that does not decode (an embedding) is read, and what its system draws are its latents
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from sfumato.core.contracts import Codec, Conditioner
from sfumato.core.errors import Misfit
from sfumato.core.space import Grid
from sfumato.systems.inputs import check_images, check_texts, take

WORDS = {"image": "pictures", "text": "texts"}


def entries(codec: Codec) -> tuple[str, ...]:
    """The entries that a codec reads, in order."""
    return (codec.reads,) if isinstance(codec.reads, str) else tuple(codec.reads)


def wanted(codec: Codec, conditioner: Conditioner | None) -> tuple[str, ...]:
    """What of a batch a training takes: of a key that the conditioner makes itself, what it makes it of."""
    made = {} if conditioner is None else conditioner.made
    keys = () if conditioner is None else conditioner.keys
    return tuple(dict.fromkeys((*entries(codec), *codec.holds, *(made.get(key, key) for key in keys))))


def checked(x: Any, codec: Codec) -> Any:
    """The data as the codec reads them; Misfit where they are no such data."""
    names = entries(codec)
    if len(names) == 1:
        return _checked(x, names[0], codec)
    if not isinstance(x, Sequence) or isinstance(x, str) or len(x) != len(names):
        raise Misfit(f"This system reads {' and '.join(WORDS[name] for name in names)}: a tuple of both.")
    found = tuple(_checked(part, name, codec) for part, name in zip(x, names))
    if len({len(part) for part in found}) > 1:
        raise Misfit(f"There must be as many {' as '.join(WORDS[name] for name in names)}: row by row they belong.")
    return found


def _checked(x: Any, name: str, codec: Codec) -> Any:
    return check_texts(x) if name == "text" else check_images(x, pictures_of(codec))


def pictures_of(codec: Codec) -> Grid:
    """What the pictures are that a codec reads; Misfit for one that reads none."""
    if isinstance(codec.data, Grid):
        return codec.data
    raise Misfit(f"This system reads {WORDS[entries(codec)[0]]}, so there is nothing in it that a picture could be.")


def count(x: Any) -> int:
    return len(x[0]) if isinstance(x, tuple) else len(x)


def of_rows(x: Any, rows: list[int]) -> Any:
    return tuple(take(part, rows) for part in x) if isinstance(x, tuple) else take(x, rows)


def moved(x: Any, device: torch.device) -> Any:
    if isinstance(x, tuple):
        return tuple(moved(part, device) for part in x)
    return x.to(device) if isinstance(x, Tensor) else x


def parts(x: Any, size: int) -> Iterator[Any]:
    """Chunks of at most `size` rows; one empty chunk of no rows."""
    n = count(x)
    for start in range(0, max(n, 1), size):
        yield of_rows(x, list(range(start, min(start + size, n))))


def joined(found: Iterable[Any]) -> Any:
    """The inverse of `parts`."""
    chunks = list(found)
    if isinstance(chunks[0], tuple):
        return tuple(joined(column) for column in zip(*chunks))
    return torch.cat(chunks) if isinstance(chunks[0], Tensor) else [one for chunk in chunks for one in chunk]


def shown(x: Any) -> Any:
    """What a codec decoded, as it is handed out: pictures clamped to [−1, 1]; vectors (n, N, D), tokens and texts as
    they are."""
    if isinstance(x, tuple):
        return tuple(map(shown, x))
    return x.clamp(-1, 1) if isinstance(x, Tensor) and x.ndim == 4 and x.is_floating_point() else x


def drawn(z: Tensor, codec: Codec, given: Iterable[str]) -> Any:
    """What drawn latents are: decoded, and of two entries what was not given, alone or both. Where the codec does not
    decode, they themselves."""
    if not codec.decodes:
        return z
    x = shown(codec.decode(z))
    if not isinstance(x, tuple):
        return x
    left = [part for part, name in zip(x, entries(codec)) if name not in set(given)]
    return left[0] if len(left) == 1 else tuple(left)
