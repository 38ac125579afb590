"""The stages of a run, one after the other, around the loop: what `run` asks for is done here.

    a checkpoint is      weights of the whole system, and of the stage in progress what `State` says
    its record is        {"stage", "finished", "offset", "spent", "minutes", "rollbacks", "training": {...}}

One is written before a stage's first step, every so often, when the training is asked to stop, at a stage's last step,
and when all is done.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from sfumato.checkpoint import save_model
from sfumato.core.errors import WeightsError
from sfumato.train.clock import now
from sfumato.train.course import Course
from sfumato.train.stage import Stage, damaged


class Stages(Course):
    def restore(self, tensors: Mapping[str, Tensor], record: Mapping[str, Any]) -> None:
        """Goes on from a checkpoint: the system's weights now, the rest when the stage is there to take it."""
        own = self.system.state_dict(keep_vars=True)
        saved = {n.removeprefix("weights/"): t for n, t in tensors.items() if n.startswith("weights/")}
        found = {id(own[name]) for name in saved if name in own}  # a shared tensor is saved under its first name
        lost = [n for n, t in own.items() if id(t) not in found or (n in saved and saved[n].shape != t.shape)]
        if lost:
            raise WeightsError(
                f"The checkpoint does not fit the recipe {self.request.recipe!r} as this sfumato builds it: "
                f"{', '.join(lost[:3])} … Go on with the version that began the run; recipe.json names it."
            )
        self.system.load_state_dict({name: saved[name] for name in own if name in saved}, strict=False)
        try:
            self.finished, self.offset, self.before = list(record["finished"]), record["offset"], record["spent"]
            self.begun, self.loss = now(), record["loss"]
            if record["stage"] is not None:
                self.restored, self.stage_step = (tensors, record), record["training"]["step"]
        except (KeyError, TypeError) as error:
            raise damaged(error) from error
        begins = record["stage"] is None and self.offset == self.request.further_at
        if self.request.further in self.finished and begins:
            self.finished.remove(self.request.further)

    def go(self) -> None:
        for name, objective in self.system.stages().items():
            if name not in self.finished:
                Stage(self, name, objective).go()
        if self.restored is None and self.main and not (self.run / "model").exists():
            save_model(self.run / "model", self.system)  # every stage was given
