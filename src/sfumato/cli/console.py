"""What the command line says: results on stdout, everything else on stderr, progress only where somebody watches.

Piped output is for programs: one JSON document, or plain lines without colour. On a terminal the same facts come as
tables and bars. A long job that is piped says a line now and then, so that a log file shows that it lives.
"""

from __future__ import annotations

import json
import logging
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

LIBRARY = Path(__file__).parents[1]
EVERY = 10.0  # seconds between two lines of progress when piped


def say(text: str = "") -> None:
    """A line of the result."""
    sys.stdout.write(text + "\n")


def note(text: str) -> None:
    """A line about the work, which is no part of the result."""
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def say_json(value: Any) -> None:
    say(json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False))


def table(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Aligned columns: drawn by rich on a terminal, separated by tabs when piped."""
    if not sys.stdout.isatty():
        for row in rows:
            say("\t".join(" ".join(str(cell).split()) for cell in row))
        return
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    drawn = Table(box=box.SIMPLE_HEAD, header_style="bold", pad_edge=False)
    for name in header:
        drawn.add_column(name)
    for row in rows:
        drawn.add_row(*(Text(str(cell)) for cell in row))
    Console().print(drawn)


@contextmanager
def progress(title: str, unit: str = "images") -> Iterator[Callable[[int, int], None]]:
    """Yields watch(done, total): a bar on a terminal, else a line every EVERY seconds."""
    if sys.stderr.isatty():
        from rich.console import Console

        with bars_of(title, unit, Console(stderr=True)) as bars:
            bar = bars.add_task(title, total=None)
            yield lambda done, total: bars.update(bar, completed=done, total=total)
        return
    last = time.monotonic()

    def watch(done: int, total: int) -> None:
        nonlocal last
        if time.monotonic() - last > EVERY:
            last = time.monotonic()
            note(f"{title}: {done} of {total} {unit}")

    yield watch


def bars_of(title: str, unit: str, console: Any) -> Any:
    """The bar that `progress` shows, in one line of 60 columns: the bar gives way first, then the unit."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
    from rich.table import Column

    narrow = console.width < 70
    columns: list[Any] = [TextColumn(title, table_column=Column(no_wrap=True, overflow="ellipsis"))]
    columns += [BarColumn(bar_width=10 if narrow else 40), MofNCompleteColumn()]
    columns += [] if narrow else [TextColumn(unit)]
    columns.append(TimeRemainingColumn(compact=narrow))
    return Progress(*columns, console=console, transient=True)


class _Stderr(logging.Handler):
    """The library's log, looked up at each line so that a redirected stderr is respected."""

    def emit(self, record: logging.LogRecord) -> None:
        prefix = "warning: " if record.levelno == logging.WARNING else ""
        note(prefix + record.getMessage())


def listen(debug: bool) -> None:
    """Shows what the library logs, and its warnings in a line each; those of others are for whoever debugs."""
    log = logging.getLogger("sfumato")
    if not any(isinstance(handler, _Stderr) for handler in log.handlers):
        log.addHandler(_Stderr())
    log.setLevel(logging.DEBUG if debug else logging.INFO)
    log.propagate = False
    plain = warnings.showwarning

    def show(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        if debug:
            plain(message, category, filename, lineno, file, line)
        elif Path(filename).is_relative_to(LIBRARY):
            note(f"warning: {message}")

    warnings.showwarning = show


def count(number: float) -> str:
    """1234567 → "1.2 M"; what a person can hold in mind."""
    for unit, size in (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if abs(number) >= size:
            return f"{number / size:.1f} {unit}"
    return f"{number:.0f}"


def bytes_(number: float) -> str:
    """Bytes in powers of 1024: 3 MiB."""
    for unit, size in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if number >= size:
            return f"{number / size:.1f} {unit}"
    return f"{number:.0f} B"
