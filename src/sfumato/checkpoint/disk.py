"""Folders that are wholly there or not there at all, whatever moment the process dies.

    make a hidden folder beside → write each file, hashing on the way, fsync it → manifest with every SHA-256, fsync →
    fsync the folder → rename it into place → fsync the parent

A rename within one file system is atomic and an fsync before it makes what it names durable, so a reader sees the old
state or the new one (Pillai et al. 2014, "All file systems are not created equal"). Every call that changes the disk
passes through `system`, so that a test can end the process at each of them in turn.

What is read is a plain file, opened without waiting: a named pipe in a folder that came from elsewhere would block for
ever. In a folder with a manifest a link leads to a file of the same folder, or to the blobs of the hub's cache.

Where a system cannot flush a folder (Windows), a rename is as durable as that system makes it.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import stat
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from filelock import FileLock, Timeout

from sfumato.core.errors import DiskError, Locked, WeightsError

MANIFEST = "manifest.json"
SCHEMA = 1  # of the manifest
CHUNK = 1 << 24  # 16 MiB: large enough for the disk's full rate, small enough to be held in memory twice
JSON_LIMIT = 1 << 26  # 64 MiB; a larger JSON is none of ours and would be slow to refuse
BINARY = getattr(os, "O_BINARY", 0)  # Windows would write "\r\n" else
NO_WAIT = getattr(os, "O_NONBLOCK", 0)  # a pipe that nobody writes is opened all the same, and refused
LINE = {"sha256": str, "bytes": int}  # what a manifest says of a file

Parts = Iterable[bytes | memoryview]  # the bytes of one file, in order


def system(call: Callable[..., Any], *arguments: Any) -> Any:
    """The one door to every system call that changes the disk."""
    return call(*arguments)


# ---- errors ----


def free_bytes(path: Path) -> int:
    """What is free where `path` is or would be."""
    while not path.exists() and path != path.parent:
        path = path.parent
    return shutil.disk_usage(path).free


@contextlib.contextmanager
def disk_errors(path: Path, needed: int) -> Iterator[None]:
    """An OSError inside becomes a DiskError that names the path, the bytes needed and the bytes free."""
    try:
        yield
    except DiskError:
        raise
    except OSError as error:
        try:
            free = f"{free_bytes(path):,}"
        except OSError:  # the device itself is gone
            free = "an unknown number of"
        refusal = DiskError(
            f"Cannot write {path}: {error.strerror or error}. It needs {needed:,} bytes and {free} bytes are free. "
            "What was saved before is intact. Make room, or choose another disk, and resume."
        )
        refusal.errno = error.errno
        raise refusal from error


# ---- writing ----


def make_folder(path: Path) -> None:
    """mkdir -p, each new folder made durable in its parent."""
    with disk_errors(path, 0):
        missing = [p for p in (path, *path.parents) if not p.exists()]
        for folder in reversed(missing):
            with contextlib.suppress(FileExistsError):
                system(os.mkdir, folder, 0o755)
            sync_folder(folder.parent)


def sync_folder(path: Path) -> None:
    """Makes the names inside a folder durable; does nothing where a folder cannot be opened."""
    if not hasattr(os, "O_DIRECTORY"):
        return
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        system(os.fsync, handle)
    finally:
        os.close(handle)


def _gathered(parts: Parts) -> Iterator[bytes | memoryview]:
    """The same bytes in pieces of about CHUNK: many small tensors are one write, a large one is several."""
    small, held = [], 0
    for part in parts:
        view = memoryview(part).cast("B")
        if len(view) < CHUNK and held + len(view) < CHUNK:
            small.append(view)
            held += len(view)
            continue
        yield b"".join(small)
        small, held = [], 0
        for start in range(0, len(view), CHUNK):
            yield view[start : start + CHUNK]
    yield b"".join(small)


def _write_file(path: Path, parts: Parts) -> dict[str, Any]:
    """A new file, durable; its line in the manifest."""
    digest, size = hashlib.sha256(), 0
    handle = system(os.open, path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | BINARY, 0o644)
    try:
        for part in _gathered(parts):
            digest.update(part)
            size += len(part)
            rest = memoryview(part)
            while len(rest):
                rest = rest[system(os.write, handle, rest) :]
        system(os.fsync, handle)
    finally:
        os.close(handle)
    return {"sha256": digest.hexdigest(), "bytes": size}


def encode_json(value: Any) -> bytes:
    """JSON as we write it: sorted, indented, and never NaN, which is no JSON."""
    return (json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n").encode()


def write_folder(folder: Path, files: Mapping[str, Parts], needed: int) -> None:
    """Puts a folder with these files and their manifest at `folder`, in place of what stands there."""
    hidden, aside = folder.with_name(f".new-{folder.name}"), folder.with_name(f".old-{folder.name}")
    with disk_errors(folder, needed):
        make_folder(folder.parent)
        restore(folder)
        for stale in (hidden, aside):
            remove_folder(stale)
        try:
            system(os.mkdir, hidden, 0o755)
            lines = {name: _write_file(hidden / name, parts) for name, parts in files.items()}
            _write_file(hidden / MANIFEST, [encode_json({"schema": SCHEMA, "files": lines})])
            sync_folder(hidden)
            if folder.exists():
                system(os.rename, folder, aside)
            system(os.rename, hidden, folder)
            sync_folder(folder.parent)
        except OSError:
            with contextlib.suppress(OSError):  # the first error is the one to tell
                restore(folder)
                remove_folder(hidden)
            raise
        remove_folder(aside)


def restore(folder: Path) -> None:
    """Puts back what `write_folder` had set aside, when the process died between its two renames."""
    aside = folder.with_name(f".old-{folder.name}")
    if aside.exists() and not folder.exists():
        system(os.rename, aside, folder)
        sync_folder(folder.parent)


def remove_folder(folder: Path) -> None:
    """Removes a folder of files; it leaves its name first, so that nobody meets a half of it."""
    if not folder.exists():
        return
    if not folder.name.startswith("."):
        gone = folder.with_name(f".gone-{folder.name}")
        remove_folder(gone)
        system(os.rename, folder, gone)
        folder = gone
    for path in sorted(folder.iterdir()):
        system(os.unlink, path)
    system(os.rmdir, folder)


def write_file(path: Path, content: bytes) -> None:
    """One file, replaced whole."""
    hidden = path.with_name(f".new-{path.name}")
    with disk_errors(path, len(content)):
        make_folder(path.parent)
        if hidden.exists():
            system(os.unlink, hidden)
        _write_file(hidden, [content])
        system(os.rename if os.name == "posix" else os.replace, hidden, path)
        sync_folder(path.parent)


def write_json(path: Path, value: Any) -> None:
    write_file(path, encode_json(value))


# ---- reading ----


@contextlib.contextmanager
def open_plain(path: Path) -> Iterator[BinaryIO]:
    """A file to read from, opened without waiting; WeightsError where it cannot be read or is no plain file."""
    try:
        handle = os.open(path, os.O_RDONLY | NO_WAIT | BINARY)
        with open(handle, "rb") as file:
            if not stat.S_ISREG(os.fstat(handle).st_mode):
                raise WeightsError(f"{path} cannot be read: it is no plain file, but a pipe, a socket or a device.")
            yield file
    except OSError as error:
        raise WeightsError(f"{path} cannot be read: {error.strerror or error}.") from None


def refuse_links(folder: Path, names: Iterable[str]) -> None:
    """WeightsError where one of the files is a link that leads out of the folder and of the hub's cache around it."""
    homes = [folder.resolve()]
    if folder.parent.name == "snapshots":  # REPOSITORY/snapshots/REVISION/FILE → REPOSITORY/blobs/HASH
        homes.append((folder.parent.parent / "blobs").resolve())
    for path in (folder / name for name in names):
        if path.is_symlink() and not any(path.resolve().is_relative_to(home) for home in homes):
            raise WeightsError(f"{path} is a link out of its folder, and is not followed. Put the file itself there.")


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Refuses a JSON object that says one key twice: whose word would hold?"""
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"the key {next(n for n in names if names.count(n) > 1)!r} occurs twice")
    return found


def decode_json(content: bytes, path: Path) -> dict[str, Any]:
    """A JSON object, or a WeightsError that names the file and the reason."""
    try:
        value = json.loads(content, object_pairs_hook=_once)
    except (ValueError, RecursionError) as error:
        raise WeightsError(f"{path} is damaged: no readable JSON ({error}).") from None
    if not isinstance(value, dict):
        raise WeightsError(f"{path} is damaged: a JSON object was expected, not {type(value).__name__}.")
    return value


def read_json(path: Path) -> dict[str, Any]:
    with open_plain(path) as file:
        content = file.read(JSON_LIMIT + 1)
    if len(content) > JSON_LIMIT:
        raise WeightsError(f"{path} is damaged: more than {JSON_LIMIT:,} bytes are too many for a JSON of ours.")
    return decode_json(content, path)


def check_schema(record: Mapping[str, Any], path: Path, known: int) -> None:
    """Every released schema stays readable; a newer one is refused, with both versions named."""
    schema = record.get("schema")
    if not isinstance(schema, int) or isinstance(schema, bool) or schema < 1:
        raise WeightsError(f"{path} is damaged: it states no schema version.")
    if schema > known:
        raise WeightsError(
            f"{path} has schema {schema}, and this sfumato reads up to schema {known}. Upgrade sfumato to open it."
        )


def hash_file(path: Path) -> str:
    digest = hashlib.sha256()
    with open_plain(path) as file:
        while part := file.read(CHUNK):
            digest.update(part)
    return digest.hexdigest()


def verify(folder: Path, needed: Iterable[str] = ()) -> None:
    """Raises WeightsError, naming file and reason, unless every file is what the manifest says, the `needed` among
    them: a manifest that leaves a file out vouches for none."""
    manifest = read_json(folder / MANIFEST)
    check_schema(manifest, folder / MANIFEST, SCHEMA)
    lines = manifest.get("files")
    if not isinstance(lines, dict) or not lines:
        raise WeightsError(f"{folder / MANIFEST} is damaged: it lists no files.")
    for name in needed:
        if name not in lines:
            raise WeightsError(f"{folder / MANIFEST} is damaged: it lists only a part of the files, and {name} not.")
    for name, line in lines.items():
        if (
            Path(name).name != name
            or not isinstance(line, dict)
            or not all(map(isinstance, map(line.get, LINE), LINE.values()))
        ):
            raise WeightsError(f"{folder / MANIFEST} is damaged: {name!r} is no line of ours.")
    refuse_links(folder, (MANIFEST, *lines))
    for name, line in lines.items():
        path = folder / name
        with open_plain(path) as file:
            size = os.fstat(file.fileno()).st_size
        if size != line["bytes"]:
            raise WeightsError(f"{path} is damaged: {size:,} bytes, and the manifest says {line['bytes']:,}.")
        if hash_file(path) != line["sha256"]:
            raise WeightsError(f"{path} is damaged: its SHA-256 is not the manifest's.")


# ---- one trainer per run folder ----


@contextlib.contextmanager
def lock(run: Path) -> Iterator[None]:
    """Holds the run folder, or raises Locked with the holder's pid, which stands in RUN/lock. The system drops the lock
    with its process, and forked data workers do not keep it."""
    make_folder(run)
    path = run / "lock"
    held = FileLock(path, thread_local=False)
    try:
        with disk_errors(path, 16):
            _take(held, path, run)
            _sign(path)
        yield
    finally:
        held.release()


def _take(held: FileLock, path: Path, run: Path) -> None:
    """The lock, or Locked. A dead holder's forked workers may not yet have run, nor let go: they get a second, as does
    a new holder to write its pid."""
    deadline = time.monotonic() + 1
    while True:
        try:
            held.acquire(blocking=False)
            return
        except Timeout:
            pid = _holder(path)
        if time.monotonic() > deadline or _alive(pid):
            raise Locked(
                f"{run} is in use: process {pid} trains in it. Wait for it, stop it, or choose another folder."
            )
        time.sleep(0.01)


def _sign(path: Path) -> None:
    """Writes our pid into the file that we hold, unless the lock itself has (where a system has no flock). A lock of
    Windows keeps its own process from writing too, and others from reading: there the holder stays unknown."""
    if _holder(path) != str(os.getpid()):
        with contextlib.nullcontext() if os.name == "posix" else contextlib.suppress(PermissionError):
            path.write_text(f"{os.getpid()}\n")


def _alive(pid: str) -> bool:
    if os.name != "posix":  # there os.kill would end the process that it asks about
        return pid.isdecimal()
    try:
        os.kill(int(pid), 0)
    except (ProcessLookupError, ValueError):
        return False
    except (OSError, OverflowError):  # it is another user's, or in another namespace: somebody's it is
        return True
    return True


def _holder(path: Path) -> str:
    """The pid in RUN/lock, its first line."""
    with contextlib.suppress(OSError):
        return path.read_text(errors="replace").partition("\n")[0].strip()[:32] or "unknown"
    return "unknown"
