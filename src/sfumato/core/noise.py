"""Random numbers for a batch, row by row.

A row's numbers never depend on who else is in the batch. Three sources, one interface:

    each(seeds)                   sampling: one generator per image, drawn on the CPU, so that a seed means the
                                  same picture on every machine and beside every mate
    shared(seed, rows, start, total)
                                  training: rows start … start + rows of the numbers for a global batch of `total`;
                                  every process draws all and keeps its own, so world size does not matter
    ambient(rows)                 torch's own generator, for a call that names no source

`parts` gives each of several parts of an image (its positions) numbers of its own, out of that image's. `stream` gives
the same rows another source for every name.

Since a training step's source is made from (seed, step), there is no random state to save and none to restore.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import torch
from torch import Tensor


def derive(*parts: int | str) -> int:
    """A 63-bit seed from a path of names and numbers: derive(seed, "prior", step). Stable across machines."""
    digest = hashlib.sha256("/".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


class Noise:
    """Draws of shape (rows, *shape), float32, on `device`. Made by `each`, `shared` or `ambient`."""

    def __init__(
        self,
        rows: int,
        generators: list[torch.Generator] | torch.Generator | None,
        device: torch.device,
        window: slice,
        total: int,
    ):
        self.rows, self.device = rows, device
        self._generators, self._window, self._total = generators, window, total

    @classmethod
    def each(cls, seeds: Iterable[int], device: torch.device | str = "cpu") -> Noise:
        generators = [torch.Generator().manual_seed(int(seed)) for seed in seeds]
        return cls(len(generators), generators, torch.device(device), slice(None), len(generators))

    @classmethod
    def shared(
        cls, seed: int, rows: int, start: int = 0, total: int | None = None, device: torch.device | str = "cpu"
    ) -> Noise:
        total = rows if total is None else total
        if start + rows > total:
            raise ValueError(f"Rows {start} to {start + rows} do not lie in a batch of {total}.")
        generator = torch.Generator(torch.device(device)).manual_seed(seed)
        return cls(rows, generator, torch.device(device), slice(start, start + rows), total)

    @classmethod
    def ambient(cls, rows: int, device: torch.device | str = "cpu") -> Noise:
        return cls(rows, None, torch.device(device), slice(None), rows)

    def _draw(self, function, shape: tuple[int, ...]) -> Tensor:
        if isinstance(self._generators, list):
            drawn = torch.stack([function(shape, generator=g) for g in self._generators])
            return drawn.to(self.device)
        generator = self._generators
        return function((self._total, *shape), generator=generator, device=self.device)[self._window]

    def normal(self, *shape: int) -> Tensor:
        """Standard normal."""
        return self._draw(torch.randn, shape)

    def uniform(self, *shape: int) -> Tensor:
        """Uniform on [0, 1)."""
        return self._draw(torch.rand, shape)

    def gumbel(self, *shape: int) -> Tensor:
        """−log(−log u), finite: u is kept off 0 and 1 by half a float32 step."""
        u = self.uniform(*shape).clamp(2.0**-25, 1 - 2.0**-24)
        return -(-u.log()).log()

    def integers(self, high: int, *shape: int) -> Tensor:
        """Uniform on 0 … high − 1, int64."""
        return (self.uniform(*shape) * high).long().clamp_(max=high - 1)

    def spread(self) -> Tensor:
        """(rows,) in [0, 1), each uniform, and evenly apart over the whole batch: (u + i / total) mod 1 for row i, with
        one u for all. Rows that have a generator each are drawn one by one: they may not know of one another."""
        if isinstance(self._generators, list):
            return self.uniform()
        u = torch.rand((), generator=self._generators, device=self.device)
        rows = torch.arange(self._total, device=self.device)[self._window]
        return (u + rows / self._total) % 1

    def stream(self, name: str) -> Noise:
        """Another source for the same rows, a function of the seeds and the name alone: neither what was drawn here nor
        what another name draws moves it. Torch's own has no other."""
        if self._generators is None:
            return Noise.ambient(self.rows, self.device)
        if isinstance(self._generators, list):
            return Noise.each([derive(g.initial_seed(), "stream", name) for g in self._generators], self.device)
        generator = torch.Generator(self._generators.device)
        generator.manual_seed(derive(self._generators.initial_seed(), "stream", name))
        return Noise(self.rows, generator, self.device, self._window, self._total)

    def parts(self, n: int, keep: Tensor | None = None) -> Noise:
        """A source of n rows for each of these, neighbours together; of those, the ones where `keep` (rows, n) is true.
        What a row draws does not depend on which are kept, in its own image or in others."""
        return _Parts(self, n, keep)


class _Parts(Noise):
    """Row i · n + j is part j of row i of the whole."""

    def __init__(self, whole: Noise, n: int, keep: Tensor | None):
        self.whole, self.n, self.keep, self.device = whole, n, keep, whole.device
        self.rows = whole.rows * n if keep is None else int(keep.sum())

    def _draw(self, function, shape: tuple[int, ...]) -> Tensor:
        drawn = self.whole._draw(function, (self.n, *shape)).flatten(0, 1)
        return drawn if self.keep is None else drawn[self.keep.flatten()]

    def stream(self, name: str) -> Noise:
        return _Parts(self.whole.stream(name), self.n, self.keep)

    def spread(self) -> Tensor:
        """Evenly apart over the parts of one row, each part's own number uniform."""
        ranks = torch.arange(self.n, device=self.device) / self.n
        even = (self.whole.uniform(1) + ranks) % 1
        turned = even.gather(1, self.whole.uniform(self.n).argsort(1)).flatten()
        return turned if self.keep is None else turned[self.keep.flatten()]
