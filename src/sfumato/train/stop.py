"""SIGTERM and SIGINT: the first asks for an orderly end, the second ends at once.

While `patient`, the first signal only sets `asked`, so that the loop can finish its step and save; otherwise nothing is
half done that a checkpoint would not cover, and it raises `Stopped` where it meets the program. The exit code is
128 + the signal's number, as a shell expects: 143 and 130.
"""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Stopped(SystemExit):
    """The training ended because it was asked to; `code` is 143 or 130. What was done is saved in `run`."""

    run: Path | None = None


class Stop:
    """A context that listens; outside the main thread, where Python hears no signals, it hears none."""

    def __init__(self, run: Path | None = None) -> None:
        self.run = run
        self.asked, self.patient = 0, False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Stop:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._hear) for number in SIGNALS}
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _hear(self, number: int, frame: FrameType | None) -> None:
        if self.asked:
            os._exit(128 + number)  # no clean-up: the last checkpoint is whole, whatever is left undone now
        self.asked = number
        if not self.patient:
            raise self._stopped(number)

    def obey(self) -> None:
        if self.asked:
            raise self._stopped(self.asked)

    def _stopped(self, number: int) -> Stopped:
        stopped = Stopped(128 + number)
        stopped.run = self.run
        return stopped
