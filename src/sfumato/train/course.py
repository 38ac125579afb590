"""A run on its way: what all of its stages share."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from torch import Tensor

from sfumato.core.contracts import Batch
from sfumato.data import Set, once
from sfumato.train.clock import now
from sfumato.train.donors import over
from sfumato.train.request import Request
from sfumato.train.stop import Stop


class Course:
    def __init__(
        self,
        run: Path,
        request: Request,
        system: Any,
        source: Set,
        stop: Stop,
        accelerator: Accelerator,
        quiet: bool,
        held: Set | None = None,
    ):
        self.run, self.request, self.system, self.held = run, request, system, held
        self.source, self.stop, self.quiet = source, stop, quiet
        self.accelerator, self.main = accelerator, accelerator.is_main_process
        system.to(self.accelerator.device)
        self.finished: list[str] = over(system, request.given or {})
        self.offset = 0  # steps of finished stages
        self.stage_step = 0  # steps of the one in progress, as restored
        self.before = 0.0  # seconds that earlier processes spent on this run
        self.begun = now()
        self.loss: float | None = None
        self.restored: tuple[Mapping[str, Tensor], Mapping[str, Any]] | None = None

    @property
    def spent(self) -> float:
        """Seconds that all processes of this run, one after the other, have spent."""
        return self.before + now() - self.begun

    def all_once(self) -> Iterable[Batch]:
        return once(self.source, self.plan_batch, self.accelerator.device)

    plan_batch = 64  # pictures at a time in what is fitted in closed form
