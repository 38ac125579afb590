"""What a stage makes of the same seeds and rows each time it is looked at, samples/STEP.png or .txt:

    codec         pictures, and below each what became of it
    prior         draws at seeds 0, 1, …: given what the first rows of the set say, or the user's own prompts
    classifier    pictures, framed green where the label is called likeliest, else red

In a cascade a codec and the first system can be looked at alone, the last one on top of those before it; one in the
middle has neither a picture to start from nor one to end with.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from sfumato.core.classes import class_number
from sfumato.data import Set
from sfumato.systems import Cascade
from sfumato.systems.abilities import can
from sfumato.train.grid import tile

GRID = 16  # pictures or texts in one
FRAME = 2  # pixels
RIGHT, WRONG = (-0.6, 0.5, -0.4), (0.7, -0.7, -0.7)  # green and red, in [−1, 1]

Sheet = Tensor | list[str]  # (3, H, W) uint8, or texts


def sheet(system: Any, stage: str, source: Set, prompts: Sequence[str] | None, device: Any) -> Sheet | None:
    """None where the stage has nothing to show. `system` is in eval mode, on its device."""
    part = part_of(system, stage)
    batch = source.batch(range(min(GRID, len(source))))
    if stage.endswith("codec") and can(part, "reconstructs"):
        return _rebuilt(part, batch, device) if "image" in part.entries else None
    if can(part, "draws"):
        return _drawn(part, _prompted(part, system.classes, prompts) if prompts else _asked(part, batch))
    if can(part, "classifies"):
        return _classified(part, batch)
    return None


def part_of(system: Any, stage: str) -> Any:
    """What can be looked at while this stage learns."""
    part, dot, what = stage.rpartition(".")
    if not dot or not isinstance(system, Cascade):
        return system
    names = list(system.systems)
    if what == "codec" or part == names[0]:
        return system.systems[part]
    return system if part == names[-1] else None


def _rebuilt(system: Any, batch: dict[str, Any], device: Any) -> Tensor:
    images = batch["image"][: GRID // 2].to(device)
    side = tuple(system.data.shape[-2:])
    images = images if images.shape[-2:] == side else F.interpolate(images, side, mode="area")
    if len(system.entries) == 1:
        return tile(torch.cat([images, system.reconstruct(images)]), len(images))
    both = {key: value[: len(images)] for key, value in batch.items()} | {"image": images}
    again = system.reconstruct(system.codec.take(both))[system.entries.index("image")]
    return tile(torch.cat([images, again.to(images)]), len(images))


def _drawn(system: Any, given: dict[str, Any] | None) -> Sheet | None:
    n = len(next(iter(given.values()))) if given else GRID
    drawn = system.sample(n, given, seeds=range(n))
    if isinstance(drawn, tuple):
        drawn = next(part for part in drawn if isinstance(part, Tensor))
    if not isinstance(drawn, Tensor):
        return list(drawn)
    return tile(drawn) if drawn.ndim == 4 else None  # vectors and tokens are nothing to look at


def _asked(system: Any, batch: dict[str, Any]) -> dict[str, Any] | None:
    """What the rows say of themselves, where they say all that is heard."""
    keys = system.hears
    given = {key: batch[key] for key in keys if key in batch}
    return given if given and len(given) == len(keys) else None


def _prompted(system: Any, classes: Sequence[str], prompts: Sequence[str]) -> dict[str, Any]:
    """The user's own prompts: captions where they are read, else names of classes."""
    if "text" in system.hears:
        return {"text": list(prompts)}
    return {"label": torch.tensor([class_number(word, classes) for word in prompts])}


def _classified(system: Any, batch: dict[str, Any]) -> Tensor:
    images = batch["image"]
    right = system.classify(images).argmax(1) == batch["label"].cpu()
    n, _, h, w = images.shape
    framed = torch.empty(n, 3, h + 2 * FRAME, w + 2 * FRAME)
    framed[:] = torch.where(right[:, None], torch.tensor(RIGHT), torch.tensor(WRONG))[..., None, None]
    framed[..., FRAME:-FRAME, FRAME:-FRAME] = images.expand(n, 3, h, w)
    return tile(framed)
