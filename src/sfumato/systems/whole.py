"""What of a system is asked by what it does in a file of its own: extending a picture, going from one to another."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

from torch import Tensor, device

from sfumato.core.condition import Condition
from sfumato.core.contracts import Codec, Given, Prior
from sfumato.core.noise import Noise

Watch = Callable[[int, int], None]  # called with (rows done, rows in all)


class Whole(Protocol):
    @property
    def codec(self) -> Codec: ...

    @property
    def prior(self) -> Prior | None: ...

    @property
    def device(self) -> device: ...

    def encode(self, x: Any, batch: int = 64) -> Tensor: ...

    def decode(self, z: Tensor, batch: int = 64) -> Any: ...

    def edit(self, images: Tensor, mask: Tensor, given: Given | None = None, **options: Any) -> Tensor: ...

    def rows(
        self, seeds: Sequence[int], batch: int, given: Given | None = None, guidance: float = 1.0
    ) -> Iterator[tuple[list[int], Noise, Condition, Condition | None]]: ...

    def said(self, given: Given | None, n: int) -> dict[str, Any]: ...

    def condition(self, given: Given, rows: int) -> tuple[Condition, Condition | None]: ...
