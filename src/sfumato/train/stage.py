"""One stage of a run: prepare, fit, finish; with its checkpoints, its held-out part and its sample grids."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from sfumato.checkpoint import (
    hash_tensors,
    latest,
    load_model,
    load_state,
    save_model,
    save_state,
    state_once,
    write_file,
)
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
from sfumato.train.grid import png
from sfumato.train.held import Best, held_loss, worth_looking
from sfumato.train.log import Log
from sfumato.train.parallel import agreed
from sfumato.train.request import plan_for
from sfumato.train.sheet import sheet
from sfumato.train.state import State

log = logging.getLogger("sfumato")
SAVE_SECONDS = 600.0  # between two checkpoints, where no number of steps is given
GRIDS = 4  # sample grids a stage, where no number of steps is given
FEWEST = 10  # steps of a stage of which more than half may not be skipped
CLOSING = 0.02  # the part of a stage's minutes kept for what comes after its last step


def damaged(error: Exception) -> WeightsError:
    return WeightsError(f"The checkpoint's state.json is damaged: {type(error).__name__} at {str(error)[:80]}.")


def sound(record: Mapping[str, Any]) -> bool:
    """Whether a checkpoint was made outside of a streak of bad steps."""
    training = record.get("training")
    return not (isinstance(training, dict) and training.get("bad"))


class Stage:
    """One stage: prepare, fit, finish."""

    def __init__(self, course: Course, name: str, objective: Objective):
        self.all, self.name, self.objective = course, name, objective
        self.plan: Plan = plan_for(course.request, name)
        self.seed = derive(course.request.seed, name)
        self.saved = self.drawn = 0.0
        self.rollbacks = 0
        self.skipped = 0  # steps, since the stage began
        self.before = 0.0  # progress at the last step
        self.best = Best()
        self.minutes: float | None = None

    def go(self) -> None:
        restored = self.all.restored
        self.all.restored = None
        share = self._share()
        if restored is None and self.all.request.further != self.name:  # what was fitted once is not fitted anew
            with seeded(derive(self.seed, "prepare"), self.all.accelerator.device):
                self.objective.prepare(self.all.all_once)
        self.data = self._data()
        self.state = State(self.objective, self.plan, module=self.all.system, accelerator=self.all.accelerator)
        if restored is None:
            self.minutes = share()
        else:
            tensors, record = restored
            try:
                self.minutes, self.rollbacks = record["minutes"], record["rollbacks"]
                self.skipped, self.best = record.get("skipped", 0), Best(*record.get("best", ()))
                self.state.load(tensors, record["training"])
            except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
                if isinstance(error, SfumatoError):
                    raise
                raise damaged(error) from error
            self.before = self.state.step / self.plan.steps if self.minutes is None else 0.0
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

    def _refuse_idle(self) -> None:
        """A stage that skipped half of its steps has not learned what it was asked to, whatever it kept."""
        if 2 * self.skipped >= self.state.step >= FEWEST:
            raise Diverged(
                f"{self.skipped} of the {self.state.step} steps of {self.name} were skipped, half of them or more: it "
                f"learned from the others only. What it learned is in {self.all.run / 'model'}. Lower the rate, or use "
                "fp32."
            )

    def _share(self) -> Callable[[], float | None]:
        """The stage's minutes when asked after its preparation: an equal part of what was left when it began."""
        total, begun = self.all.request.minutes, self.all.spent
        left = [n for n in self.all.system.stages() if n not in self.all.finished]
        if total is None:
            return lambda: None
        part = (60 * total - begun) / len(left) * (1 - CLOSING)
        return lambda: max(0.0, (part - (self.all.spent - begun)) / 60)

    def _data(self) -> Set:
        """The pictures, or their latents where a frozen codec that learned would give the same ones every time."""
        objective, stages = self.objective, self.all
        if not self.plan.cache or self.plan.flip or not isinstance(objective, System):
            return stages.source
        if not isinstance(stages.source, Source):
            return stages.source
        if not objective.codec.learned or objective.codec.reads != "image":  # texts are not kept, nor what is dropped
            return stages.source
        objective.eval()
        with stages.accelerator.main_process_first():
            if stages.main:
                sweep(stages.run / "latents")
            key = hash_tensors(objective.codec.state_dict())
            latents = cached_latents(
                objective.encode, stages.source, stages.run / "latents", key, device=stages.accelerator.device
            )
        return latents  # type: ignore[return-value]

    def _log(self) -> Log | None:
        steps = self.plan.steps if self.minutes is None else None
        return Log(self.all.run, self.name, self.all.offset, steps, quiet=self.all.quiet) if self.all.main else None

    # ---- the loop ----

    def _fit(self) -> None:
        while True:
            try:
                return self._steps()
            except Diverged:
                self.all.stop.patient = False
                if self.rollbacks:
                    raise
                self._roll_back()

    def _steps(self) -> None:
        """The `for` around the loop; a signal is heeded between two steps."""
        state, stop = self.state, self.all.stop
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
        accelerator = self.all.accelerator
        if accelerator.num_processes == 1:
            return bool(self.all.stop.asked)
        flag = torch.tensor(float(self.all.stop.asked), device=accelerator.device)
        highest = int(accelerator.gather(flag.reshape(1)).max())
        self.all.stop.asked = self.all.stop.asked or highest
        return bool(highest)

    def _heed(self, step: Step) -> None:
        self.all.loss = self.all.loss if step.skipped else step.loss
        self.skipped += bool(step.skipped)
        held = self._held(step)
        if self.log is not None:
            self.log.step(step, self.objective.diagnostics, held)
        if self._grid_due(step):
            with self.state.average.swapped():
                self._grid()

    def _held(self, step: Step) -> float | None:
        """The loss on the held-out part, where the step is one to look at it; the best weights are kept in `best`."""
        before, self.before = self.before, step.progress
        held = self.all.held
        if held is None or len(self.state.players) > 1 or not worth_looking(before, step.progress, step.step):
            return None
        loss = math.nan
        if self.all.main:
            device = self.all.accelerator.device
            with self.state.average.swapped(), seeded(derive(self.seed, "held out"), device):
                loss = held_loss(self.objective, held, self.seed, device)
                if self.best.betters(loss):
                    save_model(self.all.run / "best", self.all.system)
        loss = agreed(loss, self.all.accelerator)
        self.best.hears(loss, self.all.offset + step.step)
        return loss

    def _tired(self) -> bool:
        patience = self.all.request.patience
        return patience is not None and self.best.since >= patience

    def _take_best(self) -> None:
        """The stage ends with the weights of its best look."""
        if self.best.loss is None:
            return
        kept = load_model(self.all.run / "best").state_dict()
        live = {id(p): name for name, p in self.all.system.named_parameters(remove_duplicate=False)}
        values = [kept[live[id(p)]] for p in self.state.average.parameters]
        self.state.average.load(values, self.state.average.count)

    def _save_due(self, step: Step) -> bool:
        every = self.all.request.save_every
        if every is None:
            return self._together(now() - self.saved > SAVE_SECONDS)
        return every > 0 and step.step % every == 0

    def _together(self, wanted: bool) -> bool:
        """The main process's word on what depends on its clock."""
        return bool(agreed(float(wanted), self.all.accelerator))

    def _grid_due(self, step: Step) -> bool:
        every = self.all.request.sample_every
        if every is None:
            due = step.progress >= self.drawn + 1 / GRIDS and step.progress < 1
            self.drawn = step.progress if due else self.drawn
            return due
        return every > 0 and step.step % every == 0

    def _batches(self) -> Numbered:
        accelerator, request = self.all.accelerator, self.all.request
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
        folder = latest(self.all.run, sound) or latest(self.all.run)
        assert folder is not None, "a stage begins with a checkpoint"
        tensors, record = load_state(folder)
        self.state.load(tensors, record["training"])
        self.state.salt += 1
        self.state.bad = 0
        self.rollbacks += 1
        log.warning("Non-finite again and again: %s goes back to step %d, in a new order.", self.name, self.state.step)
        if self.log is not None:
            self.log.event(rollback=self.all.offset + self.state.step)

    # ---- what is kept ----

    def _save(self) -> None:
        tensors = self.state.tensors()
        if self.all.main:
            folder = self.all.run / "checkpoints" / str(self.all.offset + self.state.step)
            save_state(folder, tensors, self._record())
        self.all.accelerator.wait_for_everyone()
        self.saved = now()

    def _record(self) -> dict[str, Any]:
        return {
            "stage": self.name,
            "finished": self.all.finished,
            "offset": self.all.offset,
            "spent": self.all.spent,
            "loss": self.all.loss,
            "minutes": self.minutes,
            "rollbacks": self.rollbacks,
            "skipped": self.skipped,
            "best": self.best.record(),
            "training": self.state.record(),
        }

    def _model(self) -> None:
        if self.all.main:
            with self.state.average.swapped():
                save_model(self.all.run / "model", self.all.system)

    def _finish(self) -> None:
        """The averaged weights become the weights; what is measured on them follows."""
        stages = self.all
        with torch.no_grad():
            for parameter, value in zip(self.state.average.parameters, self.state.average.values):
                parameter.copy_(value)
        stages.system.eval()
        with seeded(derive(self.seed, "finish"), stages.accelerator.device):
            self.objective.finish(stages.all_once)
        stages.finished = [*stages.finished, self.name]
        stages.offset += self.state.step
        if stages.main:
            save_model(stages.run / "model", stages.system)
            self._grid()
            if all(name in stages.finished for name in stages.system.stages()):
                weights = {f"weights/{n}": t for n, t in state_once(stages.system)[0].items()}
                record = self._record() | {"stage": None}
                save_state(stages.run / "checkpoints" / str(stages.offset), weights, record)
        stages.accelerator.wait_for_everyone()

    def _grid(self) -> None:
        """samples/STEP.png, or .txt; a look that fails ends no training."""
        if not self.all.main:
            return
        system = self.all.system
        training = system.training
        system.eval()
        step = self.all.offset + (0 if self.name in self.all.finished else self.state.step)
        device, found = self.all.accelerator.device, None
        try:
            with torch.no_grad(), seeded(derive(self.seed, "grid"), device):
                found = sheet(system, self.name, self.all.source, self.all.request.prompts, device)
        except SfumatoError as error:
            log.warning("No sample grid at step %d: %s", step, error)
        system.train(training)
        place = self.all.run / "samples"
        if isinstance(found, Tensor):
            about = {"run": self.all.run.name, "stage": self.name, "step": step}
            write_file(place / f"{step}.png", png(found, about))
        elif found is not None:
            write_file(place / f"{step}.txt", "".join(f"{text}\n" for text in found).encode())
