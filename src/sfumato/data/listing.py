"""What lies in a folder: entries under their path from its root, none of them opened.

Links are followed to files inside the root only; FIFOs, devices, sockets and links to folders are listed as problems.
Hidden files and what operating systems leave behind are passed over. Archives make entries too (archives.py).
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from sfumato.core.errors import DataError
from sfumato.data.decode import read

_LITTER = {"thumbs.db", "desktop.ini", "__macosx"}


@dataclass(frozen=True)
class Entry:
    """A file by its path in `shard` (an archive; "" for a folder). `read(limit)`: its bytes, or ImageError."""

    path: str
    read: Callable[[int], bytes]
    problem: str | None = None
    shard: str = ""

    @property
    def shown(self) -> str:
        return printable(f"{self.shard}!{self.path}" if self.shard else self.path)

    @property
    def folder(self) -> str:
        return self.path.rpartition("/")[0]

    @property
    def stem(self) -> str:
        """The path without its last suffix."""
        folder, slash, name = self.path.rpartition("/")
        return folder + slash + (name.rpartition(".")[0] or name)

    @property
    def suffix(self) -> str:
        return os.path.splitext(self.path)[1].lower()


def printable(path: str) -> str:
    """A path for people and JSON: what cannot be shown is escaped."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in path)


def passed_over(name: str) -> bool:
    return name.startswith(".") or name.lower() in _LITTER


def nothing(limit: int = 0) -> bytes:
    """The content of what has none."""
    return b""


def walk(root: Path) -> Iterator[Entry]:
    """Every file below `root`, in the order of names."""
    root = root.resolve()
    yield from _walk(root, root, "")


def _walk(root: Path, folder: Path, prefix: str) -> Iterator[Entry]:
    try:
        found = sorted(os.scandir(folder), key=lambda e: e.name)
    except OSError as error:
        if not prefix:
            raise DataError(f"{root} cannot be listed: {error}.") from error
        yield Entry(prefix.rstrip("/"), nothing, "folder cannot be opened")
        return
    for item in found:
        if passed_over(item.name):
            continue
        path = prefix + item.name
        problem = _problem(root, item)
        if problem is None and item.is_dir(follow_symlinks=False):
            yield from _walk(root, Path(item.path), path + "/")
        else:
            yield Entry(path, _reader(Path(item.path), root), problem)


def _problem(root: Path, item: os.DirEntry) -> str | None:
    try:
        if item.is_symlink():
            target = Path(item.path).resolve(strict=True)
            if not target.is_relative_to(root):
                return "link out of the folder"
            if target.is_dir():
                return "link to a folder"
        mode = item.stat().st_mode
    except (OSError, RuntimeError):
        return "broken link" if item.is_symlink() else "cannot be opened"
    return None if stat.S_ISREG(mode) or stat.S_ISDIR(mode) else "not a regular file"


def _reader(path: Path, root: Path) -> Callable[[int], bytes]:
    return lambda limit: read(path, root, limit)
