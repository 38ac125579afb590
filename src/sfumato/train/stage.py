"""One stage of a run around the loop: prepare, fit, finish. What `run` asks for is done here.

A checkpoint is written before its first step, every so often, when the training is asked to stop, at its last step, and
when all stages are done.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from sfumato.checkpoint import hash_tensors, latest, load_model, load_state, save_model, save_state, state_once
from sfumato.core.contracts import Objective
from sfumato.core.errors import Diverged, SfumatoError, WeightsError
from sfumato.core.noise import derive
from sfumato.data import Batches, Set, Source
from sfumato.data.latents import cached_latents, sweep
from sfumato.recipes import Plan
from sfumato.systems import System
from sfumato.train.clock import now
from sfumato.train.course import Course
from sfumato.train.fit import Numbered, Step, fit, seeded
from sfumato.train.held import Best, held_loss, worth_looking
from sfumato.train.log import Log
from sfumato.train.parallel import agreed
from sfumato.train.request import plan_for
from sfumato.train.sheet import Sheets
from sfumato.train.state import State

log = logging.getLogger("sfumato")
SAVE_SECONDS = 600.0  # between two checkpoints, where no number of steps is given
FEWEST = 10  # steps of a stage of which more than half may not be skipped
CLOSING = 0.02  # the part of a stage's minutes kept for what comes after its last step


def damaged(error: Exception) -> WeightsError:
    return WeightsError(f"The checkpoint's state.json is damaged: {type(error).__name__} at {str(error)[:80]}.")


def sound(record: Mapping[str, Any]) -> bool:
    """Whether a checkpoint was made outside of a streak of bad steps."""
    training = record.get("training")
    return not (isinstance(training, dict) and training.get("bad"))


class Stage:
    def __init__(self, course: Course, name: str, objective: Objective):
        self.course, self.name, self.objective = course, name, objective
        self.plan: Plan = plan_for(course.request, name)
        self.seed = derive(course.request.seed, name)
        self.sheets = Sheets(course, name, self.seed)
        self.saved = 0.0
        self.rollbacks = 0
        self.skipped = 0  # steps, since the stage began
        self.before = 0.0  # progress at the last step
        self.best = Best()
        self.minutes: float | None = None

    def go(self, restored: tuple[Mapping[str, Tensor], Mapping[str, Any]] | None) -> None:
        """`restored` is the checkpoint (tensors, record) that the stage goes on from."""
        share = self._share()
        request = self.course.request
        fitted = request.further == self.name or self.name in (
            request.begun or ()
        )  # what was fitted is not fitted anew
        if restored is None and not fitted:
            with seeded(derive(self.seed, "prepare"), self.course.accelerator.device):
                self.objective.prepare(self.course.all_once)
        self.data = self._data()
        self.state = State(self.objective, self.plan, module=self.course.system, accelerator=self.course.accelerator)
        if restored is None:
            self.minutes = share()
        else:
            self._restore(*restored)
        self.log = self._log()
        try:
            if restored is None:
                self._save()
            self._fit()
        finally:
            self.state.close()
            if self.log is not None:
                self.log.close()
        self._finish()
        self._refuse_idle()

    def _restore(self, tensors: Mapping[str, Tensor], record: Mapping[str, Any]) -> None:
        try:
            self.minutes, self.rollbacks = record["minutes"], record["rollbacks"]
            self.skipped, self.best = record.get("skipped", 0), Best(*record.get("best", ()))
            self.state.load(tensors, record["training"])
        except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
            if isinstance(error, SfumatoError):
                raise
            raise damaged(error) from error
        self.before = self.state.step / self.plan.steps if self.minutes is None else 0.0

    def _refuse_idle(self) -> None:
        """A stage that skipped half of its steps has not learned what it was asked to, whatever it kept."""
        if 2 * self.skipped >= self.state.step >= FEWEST:
            raise Diverged(
                f"{self.skipped} of the {self.state.step} steps of {self.name} were skipped, half of them or more: it "
                f"learned from the others only. What it learned is in {self.course.run / 'model'}. Lower the rate, or "
                "use fp32."
            )

    def _share(self) -> Callable[[], float | None]:
        """The stage's minutes when asked after its preparation: an equal part of what was left when it began."""
        total, begun = self.course.request.minutes, self.course.spent
        left = [n for n in self.course.system.stages() if n not in self.course.finished]
        if total is None:
            return lambda: None
        part = (60 * total - begun) / len(left) * (1 - CLOSING)
        return lambda: max(0.0, (part - (self.course.spent - begun)) / 60)

    def _data(self) -> Set:
        """The pictures, or their latents where a frozen codec that learned would give the same ones every time."""
        objective, course = self.objective, self.course
        if not self.plan.cache or self.plan.flip or not isinstance(objective, System):
            return course.source
        if not isinstance(course.source, Source):
            return course.source
        if not objective.codec.learned or objective.codec.reads != "image":  # texts are not kept, nor what is dropped
            return course.source
        objective.eval()
        with course.accelerator.main_process_first():
            if course.main:
                sweep(course.run / "latents")
            key = hash_tensors(objective.codec.state_dict())
            latents = cached_latents(
                objective.encode, course.source, course.run / "latents", key, device=course.accelerator.device
            )
        return latents  # type: ignore[return-value]

    def _log(self) -> Log | None:
        course, steps = self.course, self.plan.steps if self.minutes is None else None
        if not course.main:
            return None
        unit = "images" if "image" in course.source.entries else "texts"
        return Log(course.run, self.name, course.offset, steps, quiet=course.quiet, unit=unit)

    # ---- the loop ----

    def _fit(self) -> None:
        while True:
            try:
                return self._steps()
            except Diverged:
                self.course.stop.patient = False
                if self.rollbacks:
                    raise
                self._roll_back()

    def _steps(self) -> None:
        """The `for` around the loop; a signal is heeded between two steps."""
        state, stop = self.state, self.course.stop
        self.saved = now()
        stop.patient = True
        for step in fit(self.objective, self._batches(), self.plan, seed=self.seed, state=state, minutes=self.minutes):
            self._heed(step)
            asked = self._asked()
            # within a streak of bad steps only a stop saves: a rollback must find what was before
            if asked or (self.state.bad == 0 and self._save_due(step)):
                self._save()
            if asked:
                self._model()
                stop.obey()
            if self._tired():
                log.info("%s ends: %d looks at the held-out part were none better.", self.name, self.best.since)
                self._take_best()
                break
        self._save()
        stop.patient = False
        stop.obey()

    def _asked(self) -> bool:
        """Whether any process was asked to stop; all must agree, since saving is done together."""
        accelerator = self.course.accelerator
        if accelerator.num_processes == 1:
            return bool(self.course.stop.asked)
        flag = torch.tensor(float(self.course.stop.asked), device=accelerator.device)
        highest = int(accelerator.gather(flag.reshape(1)).max())
        self.course.stop.asked = self.course.stop.asked or highest
        return bool(highest)

    def _heed(self, step: Step) -> None:
        self.course.loss = self.course.loss if step.skipped else step.loss
        self.skipped += bool(step.skipped)
        held = self._held(step)
        if self.log is not None:
            self.log.step(step, self.objective.diagnostics, held)
        if self.sheets.due(step):
            with self.state.average.swapped():
                self.sheets.write(self.course.offset + step.step)

    def _held(self, step: Step) -> float | None:
        """The loss on the held-out part, where the step is one to look at it; the best weights are kept in `best`."""
        before, self.before = self.before, step.progress
        held = self.course.held
        if held is None or len(self.state.players) > 1 or not worth_looking(before, step.progress, step.step):
            return None
        loss = math.nan
        if self.course.main:
            device = self.course.accelerator.device
            with self.state.average.swapped(), seeded(derive(self.seed, "held out"), device):
                loss = held_loss(self.objective, held, self.seed, device)
                if self.best.beaten_by(loss):
                    save_model(self.course.run / "best", self.course.system)
        loss = agreed(loss, self.course.accelerator)
        self.best.hears(loss, self.course.offset + step.step)
        return loss

    def _tired(self) -> bool:
        patience = self.course.request.patience
        return patience is not None and self.best.since >= patience

    def _take_best(self) -> None:
        """The stage ends with the weights of its best look."""
        if self.best.loss is None:
            return
        kept = load_model(self.course.run / "best").state_dict()
        live = {id(p): name for name, p in self.course.system.named_parameters(remove_duplicate=False)}
        values = [kept[live[id(p)]] for p in self.state.average.parameters]
        self.state.average.load(values, self.state.average.count)

    def _save_due(self, step: Step) -> bool:
        every = self.course.request.save_every
        if every is None:
            return self._together(now() - self.saved > SAVE_SECONDS)
        return every > 0 and step.step % every == 0

    def _together(self, wanted: bool) -> bool:
        """The main process's word on what depends on its clock."""
        return bool(agreed(float(wanted), self.course.accelerator))

    def _batches(self) -> Numbered:
        accelerator, request = self.course.accelerator, self.course.request
        return Batches(
            self.data,
            self.plan.batch,
            derive(request.seed, "data", self.name),
            rank=accelerator.process_index,
            world=accelerator.num_processes,
            flip=self.plan.flip,
            salt=self.state.salt,
        )

    def _roll_back(self) -> None:
        """Once: the last checkpoint again, with the data in a new order."""
        folder = latest(self.course.run, sound) or latest(self.course.run)
        assert folder is not None, "a stage begins with a checkpoint"
        tensors, record = load_state(folder)
        self.state.load(tensors, record["training"])
        self.state.salt += 1
        self.state.bad = 0
        self.rollbacks += 1
        log.warning("Non-finite again and again: %s goes back to step %d, in a new order.", self.name, self.state.step)
        if self.log is not None:
            self.log.event(rollback=self.course.offset + self.state.step)

    # ---- what is kept ----

    def _save(self) -> None:
        tensors = self.state.tensors()
        if self.course.main:
            folder = self.course.run / "checkpoints" / str(self.course.offset + self.state.step)
            save_state(folder, tensors, self._record())
        self.course.accelerator.wait_for_everyone()
        self.saved = now()

    def _record(self) -> dict[str, Any]:
        return {
            "stage": self.name,
            "finished": self.course.finished,
            "offset": self.course.offset,
            "spent": self.course.spent,
            "loss": self.course.loss,
            "minutes": self.minutes,
            "rollbacks": self.rollbacks,
            "skipped": self.skipped,
            "best": self.best.record(),
            "training": self.state.record(),
        }

    def _model(self) -> None:
        if self.course.main:
            with self.state.average.swapped():
                save_model(self.course.run / "model", self.course.system)

    def _finish(self) -> None:
        """The averaged weights become the weights; what is measured on them follows."""
        course = self.course
        with torch.no_grad():
            for parameter, value in zip(self.state.average.parameters, self.state.average.values):
                parameter.copy_(value)
        course.system.eval()
        with seeded(derive(self.seed, "finish"), course.accelerator.device):
            self.objective.finish(course.all_once)
        course.finished = [*course.finished, self.name]
        course.offset += self.state.step
        if course.main:
            save_model(course.run / "model", course.system)
            self.sheets.write(course.offset)
            if all(name in course.finished for name in course.system.stages()):
                weights = {f"weights/{n}": t for n, t in state_once(course.system)[0].items()}
                record = self._record() | {"stage": None}
                save_state(course.run / "checkpoints" / str(course.offset), weights, record)
        course.accelerator.wait_for_everyone()
