"""The clock of a training. Tests put their own in its place, so that none of them depends on how busy a machine is."""

from __future__ import annotations

import time
from collections.abc import Callable

clock: Callable[[], float] = time.monotonic


def now() -> float:
    """Seconds, from any beginning."""
    return clock()
