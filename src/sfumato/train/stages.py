"""The stages of a run, one after the other: which are left, and where the one in progress goes on.

A checkpoint of it is, as its record,

    {"stage", "finished", "offset", "spent", "minutes", "rollbacks", "training": {...}}

and, as its tensors, the weights of the whole system and what `State` says of the stage in progress; "stage" is None
when all are done.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from sfumato.checkpoint import save_model
from sfumato.core.errors import WeightsError
from sfumato.train.clock import now
from sfumato.train.course import Course
from sfumato.train.request import Request
from sfumato.train.stage import Stage, damaged


class Stages:
    def __init__(self, course: Course):
        self.course = course
        self.stage_step = 0  # steps of the stage in progress, as restored
        self._restored: tuple[Mapping[str, Tensor], Mapping[str, Any]] | None = None

    def restore(self, tensors: Mapping[str, Tensor], record: Mapping[str, Any]) -> None:
        """Goes on from a checkpoint: the system's weights now, the rest when the stage is there to take it."""
        course, request = self.course, self.course.request
        own = course.system.state_dict(keep_vars=True)
        saved = {n.removeprefix("weights/"): t for n, t in tensors.items() if n.startswith("weights/")}
        found = {id(own[name]) for name in saved if name in own}  # a shared tensor is saved under its first name
        lost = [n for n, t in own.items() if id(t) not in found or (n in saved and saved[n].shape != t.shape)]
        if lost:
            raise WeightsError(
                f"The checkpoint does not fit the recipe {request.recipe!r} as this sfumato builds it: "
                f"{', '.join(lost[:3])} … Go on with the version that began the run; recipe.json names it."
            )
        course.system.load_state_dict({name: saved[name] for name in own if name in saved}, strict=False)
        try:
            course.finished, course.offset, course.before = list(record["finished"]), record["offset"], record["spent"]
            course.begun, course.loss = now(), record["loss"]
            if record["stage"] is not None:
                self._restored, self.stage_step = (tensors, record), record["training"]["step"]
        except (KeyError, TypeError) as error:
            raise damaged(error) from error
        if request.further in course.finished and record["stage"] is None and not over(record, request):
            course.finished.remove(request.further)

    def go(self) -> None:
        course = self.course
        for name, objective in course.system.stages().items():
            if name not in course.finished:
                restored, self._restored = self._restored, None
                Stage(course, name, objective).go(restored)
        if self._restored is None and course.main and not (course.run / "model").exists():
            save_model(course.run / "model", course.system)  # every stage was given


def over(record: Mapping[str, Any], request: Request) -> bool:
    """Whether a checkpoint is of a run that is done, and of which no more is asked."""
    return record.get("stage", "") is None and record.get("offset") != request.further_at
