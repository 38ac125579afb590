"""What a training tells: metrics.jsonl, tensorboard where it is installed, a bar on the terminal, else a line at times.

A line of metrics.jsonl is {"step", "loss", "stage", "progress", "rate", "norms", "rows_per_second", "terms", …}; `step`
counts over all stages. A step that was skipped has "skipped" (why), "index" (which pictures) and the loss null, since
NaN is no JSON. Logged values are those of the step itself, so a resumed run writes the lines that a straight one does.
"""

from __future__ import annotations

import contextlib
import functools
import json
import logging
import math
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Column

from sfumato.checkpoint.disk import disk_errors, write_file
from sfumato.train.fit import Step

EVERY = 10  # steps
PIPED = 30.0  # seconds between two lines where no terminal is
WIDE = 90  # columns from which there is room for a bar beside what is said


class Log:
    """`offset` is the number of steps of the stages before; `steps` those of this one, None when time decides; `unit`
    what a row of a batch is."""

    def __init__(
        self,
        run: Path,
        stage: str,
        offset: int,
        steps: int | None,
        *,
        quiet: bool = False,
        board: bool = True,
        unit: str = "images",
    ):
        self.path, self.run, self.stage, self.offset, self.steps = run / "metrics.jsonl", run, stage, offset, steps
        self.every = EVERY if steps is None or steps > 10 * EVERY else 1
        self.last: Step | None = None
        self._written = -1
        self._board: Any = None
        self._wants_board = board
        self._voice = Silence() if quiet else Bar(stage) if Console(stderr=True).is_terminal else Lines(stage, unit)

    def step(self, step: Step, diagnostics: Callable[[], Mapping[str, float]], held: float | None = None) -> None:
        """Hears every step, writes some; `held` is the loss on the held-out part, where it was looked at."""
        self.last = step
        self._voice.step(step)
        full = self.due(step) or held is not None  # a line with all that is known
        if full or step.skipped:
            self.write(step, diagnostics() if full else {}, held)

    def due(self, step: Step) -> bool:
        return step.step % self.every == 0 or step.step in (1, self.steps)

    def write(self, step: Step, diagnostics: Mapping[str, float], held: float | None = None) -> None:
        line: dict[str, Any] = {
            "step": self.offset + step.step,
            "loss": None if step.skipped else _number(step.loss),
            "stage": self.stage,
            "progress": step.progress,
            "rate": step.rate,
            "norms": [_number(n) for n in step.norms],
            "rows_per_second": round(step.rows / step.seconds, 3),
            "terms": {name: _number(value) for name, value in step.terms.items()},
        }
        if diagnostics:
            line["diagnostics"] = {name: _number(value) for name, value in diagnostics.items()}
        if held is not None:
            line["held_out"] = _number(held)
        if step.skipped:
            line |= {"skipped": step.skipped, "index": step.index}
        self._append(line)
        self._written = step.step
        self._chart(line)

    def event(self, **facts: Any) -> None:
        """A line that is no step: a rollback, a fallback to an older checkpoint."""
        self._append({"stage": self.stage, **facts})

    def _append(self, line: Mapping[str, Any]) -> None:
        text = json.dumps(line, ensure_ascii=False, allow_nan=False) + "\n"
        with disk_errors(self.path, len(text)), open(self.path, "a", encoding="utf-8") as file:
            file.write(text)

    def _chart(self, line: Mapping[str, Any]) -> None:
        if not self._wants_board:
            return
        if self._board is None:
            try:
                from torch.utils.tensorboard import SummaryWriter  # late: it takes a second
            except ImportError:  # an extra, for whoever looks at curves there
                self._wants_board = False
                _say_once("No curves for tensorboard, which `pip install 'sfumato[log]'` adds; metrics.jsonl has them.")
                return
            self._board = SummaryWriter(str(self.run / "tensorboard"), purge_step=line["step"])
        scalars = {"loss": line["loss"], "rate": line["rate"], "rows_per_second": line["rows_per_second"]}
        scalars |= line["terms"] | line.get("diagnostics", {})
        scalars |= {"held_out": line["held_out"]} if "held_out" in line else {}
        for name, value in scalars.items():
            if value is not None:
                self._board.add_scalar(f"{self.stage}/{name}", value, line["step"])

    def close(self) -> None:
        """The last step is always written, also when time and not a count ended the stage."""
        if self.last is not None and self._written != self.last.step:
            self.write(self.last, {})
        self._voice.close()
        if self._board is not None:
            self._board.close()


@functools.cache
def _say_once(text: str) -> None:
    """A line to the log, once in a process: every stage has a log of its own."""
    logging.getLogger("sfumato").info(text)


def _number(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def rewind(run: Path, step: int) -> None:
    """Drops the lines after `step`, which will be written again, and a last line that was cut by a death."""
    path = run / "metrics.jsonl"
    if not path.exists():
        return
    kept = []
    for text in path.read_text(encoding="utf-8", errors="replace").splitlines():
        with contextlib.suppress(ValueError):
            line = json.loads(text)
            if isinstance(line, dict) and line.get("step", 0) <= step:
                kept.append(text + "\n")
    write_file(path, "".join(kept).encode())


# ---- for the eye ----


class Silence:
    def step(self, step: Step) -> None: ...

    def close(self) -> None: ...


class Lines(Silence):
    """A line at the first step, then every half a minute, then at the last: what a file or a pipe can bear."""

    def __init__(self, stage: str, unit: str = "images"):
        self.stage, self.unit, self.spoken = stage, unit, 0.0
        self.unsaid: Step | None = None

    def step(self, step: Step) -> None:
        self.unsaid = step
        if time.monotonic() - self.spoken >= PIPED:
            self._say()

    def _say(self) -> None:
        if self.unsaid is not None:
            sys.stderr.write(f"{self.stage}: {describe(self.unsaid, unit=self.unit)}\n")
            self.spoken, self.unsaid = time.monotonic(), None

    def close(self) -> None:
        self._say()


class Bar(Silence):
    """A progress bar with rate, loss and the time that is left, in one line of 60 columns: where a terminal is narrow,
    the bar itself gives way."""

    def __init__(self, stage: str, console: Console | None = None):
        console = Console(stderr=True) if console is None else console
        columns = [
            TextColumn("{task.description}", table_column=Column(no_wrap=True)),
            *([] if console.width < WIDE else [BarColumn()]),
            TextColumn("{task.fields[said]}", table_column=Column(no_wrap=True)),
            TimeRemainingColumn(compact=True),
        ]
        self.progress = Progress(*columns, console=console)
        self.task: TaskID = self.progress.add_task(stage, total=1.0, said="")
        self.progress.start()

    def step(self, step: Step) -> None:
        self.progress.update(self.task, completed=step.progress, said=describe(step, brief=True))

    def close(self) -> None:
        self.progress.stop()


def describe(step: Step, brief: bool = False, unit: str = "images") -> str:
    """One step in a line; `brief` leaves room beside it for the stage and the time, on 60 columns."""
    loss = f"skipped, {step.skipped}" if step.skipped else f"loss {step.loss:.4g}"
    speed = step.rows / step.seconds
    said = f"{speed:.3g} {unit}/s" if not brief else f"{speed:.3g}/s" if speed < 1000 else f"{speed / 1000:.3g}k/s"
    return f"{step.progress:4.0%}  step {step.step}  {loss}  {said}"
