"""A run under way: what its stages share, and how far it has come."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from sfumato.core.contracts import Batch
from sfumato.data import Set, once
from sfumato.train.clock import now
from sfumato.train.donors import given_stages, kept
from sfumato.train.request import Request
from sfumato.train.stop import Stop

AT_ONCE = 64  # pictures at a time in what is fitted in closed form


class Course:
    """`run` is the run's folder; `held` what is looked at, and not trained on."""

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
        system.to(accelerator.device)
        self.finished: list[str] = given_stages(system, kept(system, request))
        self.offset = 0  # steps of finished stages
        self.before = 0.0  # seconds that earlier processes spent on this run
        self.begun = now()
        self.loss: float | None = None

    @property
    def spent(self) -> float:
        """Seconds that all processes of this run, one after the other, have spent."""
        return self.before + now() - self.begun

    def all_once(self) -> Iterable[Batch]:
        return once(self.source, AT_ONCE, self.accelerator.device)
