"""Who of several processes is still there: a killed one gives the others' backend raw words, a stopped one blocks them.

Each process counts up its own beat in the group's store every BEAT seconds, from a thread that goes on while the main
one waits in a collective, and reads the others'. One that is silent for `silence` seconds, and did not say that it is
done, is lost: whoever waits for it in a collective cannot be interrupted, so the process ends there, with exit code 1
and a line that names the rank and how to go on. Checkpoints are whole or not there, so nothing is half done.

An error of the backend in the main thread becomes a `RankLost` that says the same.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch import distributed

from sfumato.core.errors import RankLost, SfumatoError

BEAT = 2.0  # seconds
SILENCE = 45.0  # seconds, so that all have stopped within a minute
LIMIT = "SFUMATO_SILENCE"  # an environment variable, in seconds, for networks that are slower than that
DONE = 1 << 40  # a beat that says: over, and not lost
log = logging.getLogger("sfumato")


@contextlib.contextmanager
def watched(processes: int, run: Path) -> Iterator[None]:
    """Watches the others while the block runs; where there are none, nothing happens."""
    if processes == 1 or not distributed.is_initialized():
        yield
        return
    watch = _Watch(run, float(os.environ.get(LIMIT, SILENCE)))
    watch.start()
    try:
        yield
    except SfumatoError:
        raise
    except (RuntimeError, ConnectionError) as error:  # of the backend, or of our own making
        lost = watch.ask()
        if lost is None:
            raise
        raise RankLost(watch.words(lost)) from error
    finally:
        watch.stop()


class _Watch(threading.Thread):
    def __init__(self, run: Path, silence: float):
        super().__init__(name="ranks", daemon=True)
        self.run_folder, self.silence = run, silence
        self.rank, self.world = distributed.get_rank(), distributed.get_world_size()
        store: Any = distributed.distributed_c10d._get_default_store()
        self.store = store.clone() if hasattr(store, "clone") else store
        self.heard = {rank: (-1, time.monotonic()) for rank in range(self.world) if rank != self.rank}
        self.over = threading.Event()
        self.answered = time.monotonic()
        self.pace = min(BEAT, silence / 3)

    def run(self) -> None:
        """Beats and listens; a second thread sees to it that the store, which lives with rank 0, still answers."""
        threading.Thread(target=self._guard, name="store", daemon=True).start()
        while not self.over.wait(self.pace):
            lost = self.listen()
            self.answered = time.monotonic()
            if lost is not None:
                self.end(lost)

    def _guard(self) -> None:
        while not self.over.wait(self.pace):
            if self.rank and self._silent(self.answered):
                self.end(0)

    def listen(self) -> int | None:
        """One beat of our own, and the first of the others that is lost; the store dies with rank 0, where it lives."""
        try:
            self.store.add(f"beat/{self.rank}", 1)
            for rank in self.heard:
                beat = self.store.add(f"beat/{rank}", 0)
                if beat != self.heard[rank][0]:
                    self.heard[rank] = (beat, time.monotonic())
        except (RuntimeError, ConnectionError):
            return None if self.over.is_set() else 0 if self.rank else None
        late = [rank for rank, (beat, at) in self.heard.items() if beat < DONE and self._silent(at)]
        return late[0] if late else None

    def _silent(self, at: float) -> bool:
        return time.monotonic() - at > self.silence

    def ask(self) -> int | None:
        """Who is lost, after an error of the backend: waits as long as a silence takes."""
        until = time.monotonic() + self.silence + BEAT
        while time.monotonic() < until:
            lost = self.listen()
            if lost is not None:
                return lost
            time.sleep(self.pace / 4)
        return None

    def words(self, lost: int) -> str:
        return (
            f"Rank {lost} of {self.world} is gone, or was stopped: it gave no sign for {self.silence:g} seconds. What "
            f"was saved is whole; start all ranks again with `sfumato resume {self.run_folder}`."
        )

    def end(self, lost: int) -> None:
        """The main thread waits for the lost rank and hears nothing, so the process ends here."""
        log.error("sfumato: %s", self.words(lost))
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
        os._exit(1)

    def stop(self) -> None:
        self.over.set()
        with contextlib.suppress(RuntimeError, ConnectionError):
            self.store.add(f"beat/{self.rank}", DONE)
