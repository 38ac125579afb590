"""Pictures that grow: a window of the system's own size slides to the right over a picture of any width.

    finished        fresh            the window holds what is finished, p(fresh | finished, y) is drawn,
    ├───────────────┼────────┤       and the window moves on by a stride
            window = W

What is finished is `known` to the prior, as in System.edit: token priors keep it, a diffusion with one schedule puts it
back at every level, and one with a schedule for each component holds it nearly clean (GUD, arXiv:2410.02667). It is
never drawn again, so a longer extension begins with the shorter one, pixel by pixel.

A prior whose order goes from left to right need not finish a window before it moves on: the order rolls along with it
(Diffusion.roll), and the only seam is that to the picture which was given.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterable
from itertools import islice
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

from sfumato.core.contracts import Given
from sfumato.core.errors import Misfit, UsageError
from sfumato.core.noise import derive
from sfumato.systems.inputs import check_seeds, check_values
from sfumato.systems.options import check_options
from sfumato.systems.whole import Watch, Whole


class _Task(NamedTuple):
    images: Tensor
    right: int
    stride: int
    given: Given | None
    seeds: list[int]
    watch: Watch | None
    options: dict[str, Any]


OWN = ("guidance", "batch")  # options of System.sample itself


def default_stride(system: Whole, **options: Any) -> int:
    """An eighth of the window where the order rolls, else half of it; in whole cells of the codec's layout."""
    cell, wide = system.codec.cell, system.codec.data.shape[-1]
    eighth = max(wide // 8 // cell, 1) * cell
    return eighth if _rolls(system, eighth, options) is not None else max(wide // 2 // cell, 1) * cell


def extend(
    system: Whole,
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
    of row i of `given`; window k of it is drawn with derive(seed, "extend", k), one that rolls with k = 0.

    `stride` is by how much the window moves on; the rest of it is what the prior sees of the picture. A multiple of
    codec.cell, so that no component lies across the seam. Options are those of System.sample.
    """
    if not isinstance(images, Tensor) or images.ndim != 4 or images.shape[1] != system.codec.data.shape[0]:
        found = tuple(images.shape) if isinstance(images, Tensor) else type(images).__name__
        raise Misfit(f"images must be (n, {system.codec.data.shape[0]}, H, W) floats in [−1, 1], not {found}.")
    height, width = images.shape[-2:]
    high, wide = system.codec.data.shape[-2:]
    cell = system.codec.cell
    if system.prior is not None:
        check_options(system.prior, {name: value for name, value in options.items() if name not in OWN})
    stride = default_stride(system, **options) if stride is None else stride
    if right < 1:
        raise UsageError(f"A picture is extended by at least one pixel, not by {right}.")
    if not 0 < stride < wide or stride % cell:
        raise UsageError(
            f"The stride is a multiple of {cell} below the window's {wide} pixels, not {stride}. "
            f"{default_stride(system, **options)} is usual."
        )
    if height != high or width < cell:
        raise UsageError(
            f"The picture to extend is {high} pixels high and at least {cell} wide here, not {height} × {width}."
        )
    seeds = list(check_seeds(len(check_values(images)), seeds))
    task = _Task(images, right, stride, given, seeds, watch, options)
    rolls = _rolls(system, stride, options)
    return _by_windows(system, task) if rolls is None else _by_turns(system, task, *rolls)


def _by_windows(system: Whole, task: _Task) -> Tensor:
    """One window after the other, each drawn to its end."""
    images, (high, wide), watch = task.images, system.codec.data.shape[-2:], task.watch
    width, cell = images.shape[-1], system.codec.cell
    kept = min(wide - task.stride, width // cell * cell)  # of what is finished, in the first window
    windows = max(math.ceil((task.right - (wide - kept)) / task.stride), 0) + 1
    for k in range(windows):
        window = continued(images[..., -kept:], wide)
        hole = (torch.arange(wide) >= kept).expand(1, 1, high, wide)
        own = [derive(seed, "extend", k) for seed in task.seeds]
        watched = None if watch is None else lambda done, total, k=k: watch(k * total + done, windows * total)
        drawn = system.edit(window, hole, task.given, seeds=own, watch=watched, **task.options)
        images = torch.cat([images, drawn[..., kept:].to(images)], -1)
        kept = wide - task.stride
    return images[..., : width + task.right]


def _rolls(system: Whole, stride: int, options: dict[str, Any]) -> tuple[Any, int] | None:
    """(how the prior's order goes on by a stride, how many columns are finished at the end of a turn); None where it
    does not, or with options that belong to a whole window, or where less than a quarter of the window would be
    finished when a turn begins: too little to go on from."""
    prior, codec = cast(Any, system.prior), cast(Any, system.codec)
    if not hasattr(prior, "roll") or not hasattr(codec, "moved"):
        return None
    if not options.keys() <= {*inspect.signature(prior.roll).parameters, "softness", "batch"}:
        return None
    high, wide = codec.data.shape[-2:]
    place = torch.arange(wide, device=system.device)
    looking = lambda chosen: codec.reach(chosen.expand(1, 1, high, wide))[0]
    move = lambda z: codec.moved(z, stride)
    rolling = prior.rolling(move, looking(place >= wide - stride), options.get("softness"))
    if rolling is None:
        return None
    done = [c for c in range(stride, wide + 1, codec.cell) if bool(rolling.done[looking(place < c)].all())]
    return (rolling, done[-1]) if done and done[-1] - stride >= wide / 4 else None


@torch.no_grad()
def _by_turns(system: Whole, task: _Task, rolling: Any, done: int) -> Tensor:
    """A stride a turn. The first begins with as much of the picture as is finished whenever a turn begins."""
    images, codec, prior = task.images, system.codec, cast(Any, system.prior)
    (high, wide), (n, width), cell = codec.data.shape[-2:], (len(images), images.shape[-1]), codec.cell
    options = {name: value for name, value in task.options.items() if name != "softness"}
    batch, guidance = options.pop("batch", 8), options.pop("guidance", 1.0)
    kept = min(done - task.stride, width // cell * cell)
    turns = max(math.ceil((task.right - (done - kept)) / task.stride), 0) + 1
    z = system.encode(continued(images[..., -kept:], wide))
    hole = (torch.arange(wide, device=z.device) >= kept).expand(1, 1, high, wide)
    mask = ~codec.reach(hole).expand_as(z)
    own, grown = [derive(seed, "extend", 0) for seed in task.seeds], list[Tensor]()
    for rows, noise, condition, null in system.rows(own, batch, task.given, guidance):
        walk = prior.roll(rolling, condition, noise, (z[rows], mask[rows]), null=null, guidance=guidance, **options)
        columns = []
        for k, x in enumerate(islice(walk, turns)):
            seen = codec.decode(x).clamp(-1, 1)
            columns.append(seen[..., (done - task.stride if k else kept) : done])
            if task.watch is not None:
                task.watch(min(len(grown) * batch * turns + (k + 1) * batch, n * turns), n * turns)
        grown.append(torch.cat(columns, -1))
    drawn = torch.cat(grown)[:n, ..., : task.right].to(images)
    return torch.cat([images, drawn], -1)


def continued(x: Tensor, width: int) -> Tensor:
    """x (…, w) mirrored at its right edge, again and again, to `width`: what an encoder sees beyond the seam."""
    there_and_back = torch.cat([x, x.flip(-1)], -1)
    return there_and_back.repeat(*[1] * (x.ndim - 1), math.ceil(width / there_and_back.shape[-1]))[..., :width]
