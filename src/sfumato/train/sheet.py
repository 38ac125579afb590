"""What a stage makes of the same seeds and rows each time it is looked at, samples/STEP.png or .txt:

    codec         pictures, and below each what became of it
    prior         draws at seeds 0, 1, …: given what the first rows of the set say, or the user's own prompts
    classifier    pictures, framed green where the label is called likeliest, else red

In a cascade a codec and the first system can be looked at alone, the last one on top of those before it; one in the
middle has neither a picture to start from nor one to end with.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from sfumato.checkpoint import write_file
from sfumato.core.classes import class_number
from sfumato.core.errors import SfumatoError
from sfumato.core.noise import derive
from sfumato.data import Set
from sfumato.systems import Cascade
from sfumato.systems.abilities import can
from sfumato.train.course import Course
from sfumato.train.fit import Step, seeded
from sfumato.train.grid import png, tile

log = logging.getLogger("sfumato")
GRIDS = 4  # a stage, where no number of steps is given
GRID = 16  # pictures or texts in one
FRAME = 2  # pixels
RIGHT, WRONG = (-0.6, 0.5, -0.4), (0.7, -0.7, -0.7)  # green and red, in [−1, 1]

Sheet = Tensor | list[str]  # (3, H, W) uint8, or texts


class Sheets:
    """Those of one stage."""

    def __init__(self, course: Course, name: str, seed: int):
        self.course, self.name, self.seed = course, name, seed
        self.drawn = 0.0  # progress at the last one

    def due(self, step: Step) -> bool:
        every = self.course.request.sample_every
        if every is None:
            due = step.progress >= self.drawn + 1 / GRIDS and step.progress < 1
            self.drawn = step.progress if due else self.drawn
            return due
        return every > 0 and step.step % every == 0

    def write(self, step: int) -> None:
        """The one of the run's `step`, of the weights as they are."""
        course, found = self.course, None
        if not course.main:
            return
        system, device = course.system, course.accelerator.device
        training = system.training
        system.eval()
        try:
            with torch.no_grad(), seeded(derive(self.seed, "grid"), device):
                found = sheet(system, self.name, course.source, course.request.prompts, device)
        except SfumatoError as error:  # a picture less is no reason to end a training
            log.warning("No sample grid at step %d: %s", step, error)
        system.train(training)
        place = course.run / "samples"
        if isinstance(found, Tensor):
            write_file(place / f"{step}.png", png(found, {"run": course.run.name, "stage": self.name, "step": step}))
        elif found is not None:
            write_file(place / f"{step}.txt", "".join(f"{text}\n" for text in found).encode())


def sheet(system: Any, stage: str, source: Set, prompts: Sequence[str] | None, device: Any) -> Sheet | None:
    """None where the stage has nothing to show. `system` is in eval mode, on its device."""
    part = part_of(system, stage)
    codec = getattr(getattr(part, "last", part), "codec", None)
    if codec is not None and not getattr(codec, "decodes", True):
        return None  # vectors are no picture
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
