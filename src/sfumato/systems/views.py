"""Views of a picture: the same thing, seen a little otherwise, so that a network learns what does not matter.

    crop    a part of the picture, enlarged to its whole side:
            area ~ U[least, 1] of it,  log(width / height) ~ U[−log ratio, log ratio],  its place uniform
    flip    left and right change places, with probability ½

Each row draws from its own numbers. What a crop shows is bilinear between pixels; where the drawn rectangle is wider or
higher than the picture it is cut to it.

Shapes: x (B, C, H, W) → the same. Sources: the crop, Szegedy et al. 2014 (arXiv:1409.4842), there with least 0.08 and
ratio 4/3, as in ViT (arXiv:2010.11929).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from sfumato.core.noise import Noise
from sfumato.core.tensors import against


@dataclass(frozen=True)
class Views:
    """least: of a crop's area, 1 for none. flip: whether left and right may change places."""

    least: float = 1.0
    ratio: float = 4 / 3
    flip: bool = False

    def __call__(self, x: Tensor, noise: Noise) -> Tensor:
        x = crop(x, noise, self.least, self.ratio) if self.least < 1 else x
        return flip(x, noise) if self.flip else x


def crop(x: Tensor, noise: Noise, least: float, ratio: float = 4 / 3) -> Tensor:
    area, shape, left, top = noise.uniform(4).to(x).unbind(1)
    area = least + (1 - least) * area
    bent = ratio ** (shape - 0.5)  # √ of width over height
    wide, high = (area.sqrt() * bent).clamp(max=1), (area.sqrt() / bent).clamp(max=1)
    theta = x.new_zeros(len(x), 2, 3)  # output → input, both in [−1, 1]
    theta[:, 0, 0], theta[:, 0, 2] = wide, (1 - wide) * (2 * left - 1)
    theta[:, 1, 1], theta[:, 1, 2] = high, (1 - high) * (2 * top - 1)
    grid = F.affine_grid(theta, list(x.shape), align_corners=False)
    return F.grid_sample(x, grid, mode="bilinear", padding_mode="border", align_corners=False)


def flip(x: Tensor, noise: Noise) -> Tensor:
    return torch.where(against(noise.uniform() < 0.5, x), x.flip(-1), x)
