"""The running average of the weights, which is what samples are drawn with.

    w̄ ← d w̄ + (1 − d) w        d = min(ema, (1 + n) / (10 + n)) after n updates

so that the average forgets its random start early (Polyak & Juditsky 1992; the ramp of d is TensorFlow's). Only what
is trained is averaged; buffers are not weights, and the averaged model has the current ones.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from sfumato.train.shards import fill, local


class Average:
    """The average of `parameters`; `count` is n."""

    def __init__(self, parameters: Sequence[nn.Parameter], ema: float):
        self.parameters, self.ema, self.count = list(parameters), ema, 0
        self.values = [p.detach().clone() for p in self.parameters]

    @property
    def decay(self) -> float:
        return min(self.ema, (1 + self.count) / (10 + self.count))

    @torch.no_grad()
    def update(self) -> None:
        """One step: a single fused kernel over all tensors."""
        weight = 1 - self.decay
        if self.values:
            torch._foreach_lerp_([local(v) for v in self.values], [local(p) for p in self.parameters], weight)
        self.count += 1

    @torch.no_grad()
    def _exchange(self) -> None:
        for parameter, value in zip(self.parameters, self.values):
            live = local(parameter)
            kept = live.clone()
            live.copy_(local(value))
            local(value).copy_(kept)

    @contextlib.contextmanager
    def swapped(self) -> Iterator[None]:
        """The model is the averaged one inside; afterwards its own weights are back, bit for bit."""
        self._exchange()
        try:
            yield
        finally:
            self._exchange()

    @torch.no_grad()
    def load(self, values: Sequence[Tensor], count: int) -> None:
        for own, value in zip(self.values, values, strict=True):
            fill(own, value)
        self.count = count
