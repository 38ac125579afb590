"""What lies in a folder: entries under their path from its root, none of them opened.

Links are followed to files inside the root only; where the root lies in a snapshot of the hub's cache, also to the
blobs of the same repository, of which a snapshot is made. FIFOs, devices, sockets and links to folders are listed as
problems. Hidden files and what operating systems leave behind are passed over, and so are folders that are runs of our
own (`--out` inside DATA): a line in the report says so. Archives make entries too (archives.py).

Paths are in Unicode's composed form (NFC), as they are typed; the file is opened by the name that it has.
"""

from __future__ import annotations

import os
import stat
import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from sfumato.core.errors import DataError
from sfumato.data.decode import read

_LITTER = {"thumbs.db", "desktop.ini", "__macosx"}
_CACHED = ("datasets--", "models--", "spaces--")  # what repositories in the hub's cache are called


@dataclass(frozen=True)
class Entry:
    """A file by its path in `shard` (an archive; "" for a folder). `read(limit)`: its bytes, or ImageError."""

    path: str
    read: Callable[[int], bytes]
    problem: str | None = None
    shard: str = ""
    aside: str | None = None  # why it is no part of the set, though nothing is wrong with it
    at: Path | None = None  # where it lies, if it is a file of its own

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


def plain(path: str) -> str:
    """A path as it is typed: composed."""
    return unicodedata.normalize("NFC", path)


def is_run(folder: Path) -> bool:
    """Whether a folder is a run of ours, or the model of one."""
    made = any(os.path.isfile(folder / name) for name in ("train.json", "recipe.json"))
    beside = ("model", "checkpoints", "metrics.jsonl", "manifest.json")
    return made and any(os.path.exists(folder / name) for name in beside)


def homes(root: Path) -> tuple[Path, ...]:
    """Where files of a folder may lie, links followed: in it, and in its repository's blobs if it is a hub snapshot."""
    root = root.resolve()
    for folder in (root, *root.parents):
        if folder.parent.name == "snapshots" and folder.parent.parent.name.startswith(_CACHED):
            return root, folder.parent.parent / "blobs"
    return (root,)


def walk(root: Path) -> Iterator[Entry]:
    """Every file below `root`, in the order of names."""
    root = root.resolve()
    allowed = homes(root)
    waiting = [iter(_items(root, ""))]  # a stack instead of recursion: folders may be nested a thousand deep
    while waiting:
        found = next(waiting[-1], None)
        if found is None:
            waiting.pop()
            continue
        item, path = found
        if isinstance(item, str):
            yield Entry(plain(path), nothing, item)
            continue
        problem = _problem(allowed, item)
        if problem is not None or not item.is_dir(follow_symlinks=False):
            yield Entry(plain(path), _reader(Path(item.path), root), problem, at=Path(item.path))
        elif is_run(Path(item.path)):
            yield Entry(plain(path), nothing, aside="a run of sfumato, passed over")
        else:
            waiting.append(iter(_items(Path(item.path), path + "/")))


def _items(folder: Path, prefix: str) -> list[tuple[os.DirEntry | str, str]]:
    """(item, its path) of a folder by name; (a problem, the folder's path) where it cannot be listed."""
    try:
        found = sorted(os.scandir(folder), key=lambda e: e.name)
    except OSError as error:
        if not prefix:
            raise DataError(f"{folder} cannot be listed: {error}.") from error
        return [("folder cannot be opened", prefix.rstrip("/"))]
    return [(item, prefix + item.name) for item in found if not passed_over(item.name)]


def _problem(allowed: tuple[Path, ...], item: os.DirEntry) -> str | None:
    try:
        if item.is_symlink():
            target = Path(item.path).resolve(strict=True)
            if not any(target.is_relative_to(home) for home in allowed):
                return "link out of the folder"
            if target.is_dir():
                return "link to a folder"
        mode = item.stat().st_mode
    except (OSError, RuntimeError):
        return "broken link" if item.is_symlink() else "cannot be opened"
    return None if stat.S_ISREG(mode) or stat.S_ISDIR(mode) else "not a regular file"


def _reader(path: Path, root: Path) -> Callable[[int], bytes]:
    return lambda limit: read(path, homes(root), limit)
