"""Differentiable augmentation: a critic of few pictures sees each one changed, real and made ones alike.

    D(T(x)), D(T(G(w))),   T ~ one draw a picture;   ∂T/∂x exists, so the generator learns through it

What is done to made pictures only, or for one player only, the generator learns to draw. T must be undone by no one:
p and q agree where their images under T do, as long as T is random and leaves enough untouched.

    colour         x + b;  m + s (x − m), m the mean of the channels;  M + k (x − M), M that of the picture
                   b ~ U[−½, ½),  s ~ U[0, 2),  k ~ U[½, 3/2)
    translation    by up to an eighth of each side, zeros coming in
    cutout         a rectangle of half the sides, its centre anywhere, becomes zero

Shapes: x (B, C, H, W) in [−1, 1], or a latent, whose "colour" is not one and had better be left alone.
Source: Zhao et al. 2020, arXiv:2006.10738; a second derivative exists everywhere.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from sfumato.core.noise import Noise
from sfumato.core.registry import Registry
from sfumato.core.tensors import against

AUGMENTATIONS: Registry[Callable[[Tensor, Noise], Tensor]] = Registry("augmentation")


@AUGMENTATIONS.add("colour")
def colour(x: Tensor, noise: Noise) -> Tensor:
    brightness, saturation, contrast = (against(u, x) for u in noise.uniform(3).to(x).unbind(1))
    x = x + brightness - 0.5
    grey = x.mean(1, keepdim=True)
    x = grey + 2 * saturation * (x - grey)
    mean = x.mean((1, 2, 3), keepdim=True)
    return mean + (contrast + 0.5) * (x - mean)


@AUGMENTATIONS.add("translation")
def translation(x: Tensor, noise: Noise) -> Tensor:
    """Whole pixels; a grid narrower than four stays where it is."""
    for dim in (2, 3):
        side = x.shape[dim]
        most = (side + 4) // 8
        shift = noise.integers(2 * most + 1)
        room = (0, 0, most, most) if dim == 2 else (most, most)
        index = torch.arange(side, device=x.device) + shift[:, None]
        shape = [len(x), 1, 1, 1]
        shape[dim] = side
        padded = F.pad(x, room)
        x = padded.gather(dim, index.reshape(shape).expand_as(x))
    return x


@AUGMENTATIONS.add("cutout")
def cutout(x: Tensor, noise: Noise) -> Tensor:
    inside = torch.ones_like(x[:, :1], dtype=torch.bool)
    for dim in (2, 3):
        side = x.shape[dim]
        centre = against(noise.uniform() * side, x).to(x)
        shape = [1, 1, 1, 1]
        shape[dim] = side
        middles = (torch.arange(side, device=x.device) + 0.5).to(x).reshape(shape)
        inside = inside & ((middles - centre).abs() < side / 4)
    return x * ~inside


def augmented(x: Tensor, names: Sequence[str], noise: Noise) -> Tensor:
    """x changed by each of the named, in that order."""
    for name in names:
        x = AUGMENTATIONS[name](x, noise)
    return x
