"""Pictures that grow: a window of the system's own size slides to the right over a picture of any width.

    finished        fresh            the window holds what is finished, p(fresh | finished, y) is drawn,
    ├───────────────┼────────┤       and the window moves on by a stride
            window = W

What is finished is `known` to the prior, as in System.edit: token priors keep it, a diffusion with one schedule puts it
back at every level, and one with a schedule for each component holds it nearly clean (GUD, arXiv:2410.02667). It is
never drawn again, so a longer extension begins with the shorter one, pixel by pixel.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from sfumato.core.contracts import Given
from sfumato.core.errors import UsageError
from sfumato.core.noise import derive

if TYPE_CHECKING:
    from sfumato.systems.system import System, Watch


def default_stride(system: System) -> int:
    """Half the window, in whole cells of the codec's layout."""
    cell = system.codec.cell
    return max(system.codec.data.shape[-1] // 2 // cell, 1) * cell


def extend(
    system: System,
    images: Tensor,
    right: int,
    given: Given | None = None,
    *,
    stride: int | None = None,
    seeds: Iterable[int] | None = None,
    watch: Watch | None = None,
    **options: Any,
) -> Tensor:
    """(n, C, H, W′) in [−1, 1], W′ ≥ one cell → (n, C, H, W′ + right). Image i is a function of itself, of seeds[i] and
    of row i of `given`; window k of it is drawn with derive(seed, "extend", k).

    `stride` is what is drawn at once; the rest of the window is what the prior sees of the picture. A multiple of
    codec.cell, so that no component lies across the seam. Options are those of System.sample.
    """
    n, height, width = len(images), *images.shape[-2:]
    high, wide = system.codec.data.shape[-2:]
    cell = system.codec.cell
    stride = default_stride(system) if stride is None else stride
    if right < 1:
        raise UsageError(f"A picture is extended by at least one pixel, not by {right}.")
    if not 0 < stride < wide or stride % cell:
        raise UsageError(
            f"The stride is a multiple of {cell} below the window's {wide} pixels, not {stride}. "
            f"{default_stride(system)} is usual."
        )
    if height != high or width < cell:
        raise UsageError(
            f"The picture to extend is {high} pixels high and at least {cell} wide here, not {height} × {width}."
        )
    seeds = range(n) if seeds is None else list(seeds)
    kept = min(wide - stride, width // cell * cell)  # of what is finished, in the first window
    windows = max(math.ceil((right - (wide - kept)) / stride), 0) + 1
    for k in range(windows):
        window = continued(images[..., -kept:], wide)
        hole = (torch.arange(wide) >= kept).expand(1, 1, high, wide)
        own = [derive(seed, "extend", k) for seed in seeds]
        watched = None if watch is None else lambda done, total, k=k: watch(k * total + done, windows * total)
        drawn = system.edit(window, hole, given, seeds=own, watch=watched, **options)
        images = torch.cat([images, drawn[..., kept:].to(images)], -1)
        kept = wide - stride
    return images[..., : width + right]


def continued(x: Tensor, width: int) -> Tensor:
    """x (…, w) mirrored at its right edge, again and again, to `width`: what an encoder sees beyond the seam."""
    there_and_back = torch.cat([x, x.flip(-1)], -1)
    return there_and_back.repeat(*[1] * (x.ndim - 1), math.ceil(width / there_and_back.shape[-1]))[..., :width]
