"""A picture becomes a grid beside the latent: a low resolution to sharpen, or a picture with a hole to fill.

    kind    grid                              at sampling, given                     in training, from the image x
    low     up(e)              C channels     "picture" e, any size                  e = area-average of x by `factor`
    hole    (x · (1 − m), m)   C + 1          "picture" x and "mask" m, 1 = unknown  m a rectangle, drawn anew each time

The grid is brought to the latent's layout (H, W): bilinear when it grows, by area when it shrinks. The null condition
is a grid of zeros (for `hole`: nothing known, m = 1), learned by dropping with probability `drop`.
Super-resolution by concatenation is SR3's (arXiv:2104.07636), random holes are GLIDE's (arXiv:2112.10741).
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sfumato.core.condition import Condition, choose
from sfumato.core.contracts import Conditioner, Given
from sfumato.core.errors import UsageError
from sfumato.core.noise import Noise


class Picture(Conditioner):
    """given["picture"] (B, C, ·, ·) → grid (B, C or C + 1, H, W). No parameters."""

    keys = ("picture",)
    made = {"picture": "image"}

    empty: Tensor

    def __init__(
        self,
        channels: int,
        layout: tuple[int, int],
        kind: Literal["low", "hole"] = "low",
        factor: int = 2,
        drop: float = 0.1,
    ):
        super().__init__()
        self.layout, self.kind, self.factor, self.drop = layout, kind, factor, drop
        self.channels = channels + (kind == "hole")
        empty = torch.zeros(self.channels, *layout)
        if kind == "hole":
            empty[-1] = 1
        self.register_buffer("empty", empty, persistent=False)

    def forward(self, given: Given, noise: Noise | None = None) -> Condition:
        if given.get("picture") is None:
            picture, mask = self._spoil(given["image"], noise)
        else:
            picture, mask = given["picture"], given.get("mask")
        picture = picture.to(self.empty.device)
        if self.kind == "hole":
            if mask is None:
                raise UsageError("This system fills a hole: give the mask beside the picture, 1 where it is unknown.")
            mask = mask.to(picture).reshape(len(picture), 1, *picture.shape[-2:])
            picture = torch.cat([picture * (1 - mask), mask], 1)
        condition = Condition(len(picture), grid=self._fit(picture))
        if noise is None:
            return condition
        return choose(noise.uniform() >= self.drop, condition, self.null(len(picture)))

    def null(self, rows: int) -> Condition:
        return Condition(rows, grid=self.empty.expand(rows, -1, -1, -1))

    def _spoil(self, image: Tensor, noise: Noise | None) -> tuple[Tensor, Tensor | None]:
        if self.kind == "low":
            return F.avg_pool2d(image, self.factor), None
        noise = Noise.ambient(len(image), image.device) if noise is None else noise
        low, high = noise.uniform(2, 2).sort(dim=1).values.unbind(1)  # opposite corners, as parts of (H, W)
        rows, columns = (torch.linspace(0, 1, n, device=image.device) for n in image.shape[-2:])
        inside = lambda axis, line: (line >= low[:, axis, None]) & (line <= high[:, axis, None])
        return image, (inside(0, rows)[:, :, None] & inside(1, columns)[:, None, :])

    def _fit(self, picture: Tensor) -> Tensor:
        if tuple(picture.shape[-2:]) == self.layout:
            return picture
        if picture.shape[-2] > self.layout[0]:
            return F.interpolate(picture, self.layout, mode="area")
        return F.interpolate(picture, self.layout, mode="bilinear", align_corners=False)


def channels(conditioner: nn.Module | None) -> int:
    """How many channels a conditioner concatenates to the latent."""
    parts = [] if conditioner is None else [m for m in conditioner.modules() if isinstance(m, Picture)]
    return sum(part.channels for part in parts)
