"""Where texts lie: row i is `sizes[i]` bytes from `starts[i]` on, in a file of the user's or in one of our own.

A .txt in UTF-8 is read where it lies, and its rows are cleaned when they are asked for; what is packed, in another
encoding, or in a table, is written cleaned into a temporary file once (in TMPDIR, else /var/tmp), which has no name and
is gone with the process. So memory holds 12 bytes a row, however long the rows are.

A file that has another size or date than when the set was opened is hashed again: other content is a DataError.
"""

from __future__ import annotations

import bisect
import hashlib
import os
import tempfile
from array import array
from collections.abc import Sequence
from pathlib import Path
from typing import IO

from sfumato.core.errors import DataError, DiskError, ImageError
from sfumato.data.captions import clean
from sfumato.data.decode import regular

Span = tuple[int, int]  # (first byte, bytes)


class Place:
    """A file that is read where it lies; `digest`, of its bytes, is known when all were read."""

    def __init__(self, path: Path, homes: Sequence[Path], most: int):
        self.path, self.most, self.digest = path, most, ""
        handle = regular(path, homes)
        self.stamp = _stamp(handle)
        os.close(handle)

    def text(self, start: int, size: int) -> str:
        try:
            handle = regular(self.path)
        except ImageError as error:
            raise DataError(f"{self.path} was read when the set was opened, and is no longer there.") from error
        try:
            if _stamp(handle) != self.stamp:
                self._look_again(handle)
            return clean(os.pread(handle, size, start).decode(), self.most)[0]
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"{self.path} can no longer be read: {error}.") from error
        finally:
            os.close(handle)

    def _look_again(self, handle: int) -> None:
        with os.fdopen(os.dup(handle), "rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        if digest != self.digest:
            raise DataError(f"{self.path} has changed since the set was opened. Open it anew.")
        self.stamp = _stamp(handle)


class Shelf:
    """Rows, kept one after the other and read in any order."""

    def __init__(self) -> None:
        self.starts, self.sizes = array("q"), array("I")
        self._firsts: list[int] = []  # the first row of each place
        self._places: list[Place | None] = []
        self._own: IO[bytes] | None = None
        self._end = 0

    def __len__(self) -> int:
        return len(self.starts)

    def begin(self, place: Place | None) -> None:
        """The rows that follow lie there; None: in our own file."""
        self._firsts.append(len(self))
        self._places.append(place)

    def keep(self, text: str, span: Span | None) -> None:
        """A cleaned text, or where it lies."""
        if span is None:
            data = text.encode()
            span = self._end, len(data)
            self._write(data)
        self.starts.append(span[0])
        self.sizes.append(span[1])

    def done(self) -> None:
        """Before the first row is read."""
        if self._own is not None:
            self._write(b"", flush=True)

    def text(self, i: int) -> str:
        start, size = self.starts[i], self.sizes[i]
        place = self._places[bisect.bisect_right(self._firsts, i) - 1]
        if place is not None:
            return place.text(start, size)
        assert self._own is not None
        return os.pread(self._own.fileno(), size, start).decode()

    def _write(self, data: bytes, flush: bool = False) -> None:
        try:
            own = self._own = self._own or tempfile.TemporaryFile(dir=_temporary(), buffering=2**20)  # noqa: SIM115
            own.write(data)
            if flush:
                own.flush()
        except OSError as error:
            raise DiskError(
                f"The texts cannot be kept in {_temporary()}: {error.strerror or error}. Make room there, or name "
                "another folder by TMPDIR."
            ) from error
        self._end += len(data)


def _temporary() -> str:
    """/tmp may be memory; /var/tmp is on a disk, where it is."""
    usable = "TMPDIR" not in os.environ and os.access("/var/tmp", os.W_OK | os.X_OK)
    return "/var/tmp" if usable else tempfile.gettempdir()


def _stamp(handle: int) -> tuple[int, int]:
    status = os.fstat(handle)
    return status.st_size, status.st_mtime_ns
