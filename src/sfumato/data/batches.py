"""An endless stream of batches without a state: batch k is a function of (seed, k).

    stream  =  π₀ ⧺ π₁ ⧺ π₂ ⧺ …         πₑ the permutation of 0 … N − 1 drawn from derive(seed, "order", e)
    batch k =  stream[kB … (k + 1)B)     rank r of w takes its rows [rB/w, (r + 1)B/w)

Every epoch visits each picture once, whatever B is; a batch may straddle two epochs, or hold several of a small set.
Resuming needs the number k and nothing else. Position p of the stream is flipped when derive(seed, "flip") says so
for p, and shows caption number ⌊p / N⌋ of its picture, so that a set with several captions per picture shows them in
turn.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from sfumato.core.errors import UsageError
from sfumato.core.noise import derive


class Rows(Protocol):
    """What a stream is made of: a Source, or its latents."""

    def __len__(self) -> int: ...

    def batch(self, indices: Iterable[int], choice: int | Sequence[int] = 0) -> dict[str, Any]: ...


class Batches:
    """`batches.at(k)`, or `batches[k]`: the rows of batch k for `rank`. Another `salt`, another order (a rollback)."""

    def __init__(
        self,
        source: Rows,
        batch: int,
        seed: int,
        *,
        rank: int = 0,
        world: int = 1,
        flip: bool = False,
        device: torch.device | str | None = None,
        salt: str | int = "",
    ):
        if batch < 1 or world < 1 or not 0 <= rank < world:
            raise UsageError(f"There is no rank {rank} of {world} in a batch of {batch}.")
        if batch % world:
            raise UsageError(
                f"A batch of {batch} cannot be shared equally by {world} processes; choose a multiple of {world}."
            )
        self.source, self.batch, self.seed, self.salt = source, batch, seed, salt
        self.rank, self.world, self.flip, self.device = rank, world, flip, device
        self._order = functools.lru_cache(maxsize=4)(self._draw_order)

    def _draw_order(self, epoch: int) -> Tensor:
        generator = torch.Generator().manual_seed(derive(self.seed, "order", epoch, self.salt))
        return torch.randperm(len(self.source), generator=generator)

    def positions(self, k: int) -> range:
        """The positions of the stream that batch k gives to this rank."""
        if k < 0:
            raise UsageError(f"There is no batch {k}.")
        share = self.batch // self.world
        start = k * self.batch + self.rank * share
        return range(start, start + share)

    def indices(self, k: int) -> list[int]:
        n = len(self.source)
        return [int(self._order(p // n)[p % n]) for p in self.positions(k)]

    def at(self, k: int) -> dict[str, Any]:
        n, positions = len(self.source), self.positions(k)
        batch = self.source.batch(self.indices(k), choice=[p // n for p in positions])
        if self.flip and "image" in batch:
            turned = torch.tensor([derive(self.seed, "flip", p, self.salt) % 2 == 1 for p in positions])
            batch["image"] = torch.where(turned[:, None, None, None], batch["image"].flip(-1), batch["image"])
        return _move(batch, self.device)

    __getitem__ = at

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """From batch 0, for ever."""
        k = 0
        while True:
            yield self.at(k)
            k += 1

    def epoch(self, k: int) -> float:
        """How many times the whole set was seen before batch k."""
        return k * self.batch / len(self.source)


def once(source: Rows, batch: int, device: torch.device | str | None = None) -> Iterator[dict[str, Any]]:
    """Every picture once, in order; the last batch may be smaller."""
    if batch < 1:
        raise UsageError(f"A batch holds at least one picture, not {batch}.")
    for start in range(0, len(source), batch):
        yield _move(source.batch(range(start, min(start + batch, len(source)))), device)


def _move(batch: dict[str, Any], device: torch.device | str | None) -> dict[str, Any]:
    if device is None:
        return batch
    return {key: value.to(device) if isinstance(value, Tensor) else value for key, value in batch.items()}
