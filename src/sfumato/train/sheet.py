"""The sample grids of a stage, RUN/samples/STEP.png: what it would draw at that step."""

from __future__ import annotations

import logging
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from sfumato.checkpoint import write_file
from sfumato.core.classes import class_number
from sfumato.core.errors import SfumatoError
from sfumato.core.noise import derive
from sfumato.metrics.evaluation import condition_keys
from sfumato.systems import Cascade
from sfumato.train.course import Course
from sfumato.train.fit import Step, seeded
from sfumato.train.grid import png, tile

log = logging.getLogger("sfumato")
GRIDS = 4  # a stage, where no number of steps is given
PICTURES = 16  # in one


class Sheets:
    """Draws at seeds 0 … 15; for a codec, pictures above what it makes of them."""

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
        if not self.course.main:
            return
        system = self.course.system
        training = system.training
        system.eval()
        sheet = None
        try:
            with torch.no_grad(), seeded(derive(self.seed, "grid"), self.course.accelerator.device):
                sheet = self._sheet(self._drawer())
        except SfumatoError as error:  # a picture less is no reason to end a training
            log.warning("No sample grid at step %d: %s", step, error)
        system.train(training)
        if sheet is not None:
            about = {"run": self.course.run.name, "stage": self.name, "step": step}
            write_file(self.course.run / "samples" / f"{step}.png", png(sheet, about))

    def _sheet(self, system: Any) -> Tensor | None:
        batch = self.course.source.batch(range(min(PICTURES, len(self.course.source))))
        if self.name.endswith("codec") and hasattr(system, "reconstruct"):
            images = batch["image"][: PICTURES // 2].to(self.course.accelerator.device)
            side = tuple(system.codec.data.shape[-2:])
            images = images if images.shape[-2:] == side else F.interpolate(images, side, mode="area")
            return tile(torch.cat([images, system.reconstruct(images)]), len(images))
        if self.name.endswith("prior") and hasattr(system, "sample") and self.course.request.prompts:
            given = self._prompted(system)
            n = len(next(iter(given.values())))
            return tile(system.sample(n, given, seeds=range(n)))
        if self.name.endswith("prior") and hasattr(system, "sample"):
            parts = system.systems.values() if isinstance(system, Cascade) else [system]
            asked = {key for part in parts for key in getattr(getattr(part, "conditioner", None), "keys", ())}
            keys = asked - {"picture"}  # which a cascade draws for itself
            given = {key: batch[key] for key in keys if key in batch}
            n = len(next(iter(given.values()))) if given else PICTURES
            return tile(system.sample(n, given if len(given) == len(keys) else None, seeds=range(n)))
        return None

    def _prompted(self, system: Any) -> dict[str, Any]:
        """The user's own prompts: captions where the system reads them, else names of classes."""
        prompts = list(self.course.request.prompts or ())
        if "text" in condition_keys(system):
            return {"text": prompts}
        classes = [class_number(word, self.course.system.classes) for word in prompts]
        return {"label": torch.tensor(classes)}

    def _drawer(self) -> Any:
        """What can draw while this stage learns. In a cascade a codec and the first system can do so alone, the last
        one on top of those before it; one in the middle has neither a picture to start from nor one to end with."""
        system: Any = self.course.system
        part, dot, stage = self.name.rpartition(".")
        if not dot or not isinstance(system, Cascade):
            return system
        names = list(system.systems)
        if stage == "codec" or part == names[0]:
            return system.systems[part]
        return system if part == names[-1] else None
