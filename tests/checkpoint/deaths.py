"""A process that dies, or a disk that refuses, at the n-th system call that changes the disk."""

from __future__ import annotations

import errno
import os
import signal
import sys
from collections.abc import Callable

from sfumato.checkpoint import disk


def count_calls(monkeypatch, action: Callable[[], None]) -> list[str]:
    """The names of the mutating calls that `action` makes, in order."""
    calls: list[str] = []

    def system(call, *arguments):
        calls.append(call.__name__)
        return call(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(disk, "system", system)
        action()
    return calls


def die_at(n: int, action: Callable[[], None], torn: bool = False) -> int:
    """Runs `action` in a child that is killed (SIGKILL) just before its n-th mutating call, counted from 0; with `torn`
    half of a write's bytes still reach the file. Returns the child's exit code, −9 when it was killed."""
    child = os.fork()
    if child == 0:
        seen = -1

        def system(call, *arguments):
            nonlocal seen
            seen += 1
            if seen == n:
                if torn and call is os.write:
                    handle, part = arguments
                    call(handle, part[: len(part) // 2])
                os.kill(os.getpid(), signal.SIGKILL)
            return call(*arguments)

        disk.system = system
        try:
            action()
        except BaseException as error:  # a forked child must never return into pytest
            sys.stderr.write(f"{error!r}\n")
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def refuse_at(n: int, number: int):
    """A `system` whose n-th call fails with this errno."""
    seen = -1

    def system(call, *arguments):
        nonlocal seen
        seen += 1
        if seen == n:
            raise OSError(number, os.strerror(number))
        return call(*arguments)

    return system


ERRORS = {"ENOSPC": errno.ENOSPC, "EIO": errno.EIO, "EROFS": errno.EROFS}
