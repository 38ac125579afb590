"""Folders that are wholly there or not there at all, whatever moment the process dies.

    make a hidden folder beside → write each file, hashing on the way, fsync it → manifest with every SHA-256, fsync →
    fsync the folder → rename it into place → fsync the parent

A rename within one file system is atomic and an fsync before it makes what it names durable, so a reader sees the old
state or the new one (Pillai et al. 2014, "All file systems are not created equal"). Every call that changes the disk
passes through `system`, so that a test can end the process at each of them in turn.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from sfumato.core.errors import DiskError, Locked, WeightsError

MANIFEST = "manifest.json"
SCHEMA = 1  # of the manifest
CHUNK = 1 << 24  # 16 MiB: large enough for the disk's full rate, small enough to be held in memory twice
JSON_LIMIT = 1 << 26  # 64 MiB; a larger JSON is none of ours and would be slow to refuse

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
    """Makes the names inside a folder durable."""
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
    handle = system(os.open, path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
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
        system(os.rename, hidden, path)
        sync_folder(path.parent)


def write_json(path: Path, value: Any) -> None:
    write_file(path, encode_json(value))


# ---- reading ----


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
    try:
        if path.stat().st_size > JSON_LIMIT:
            raise WeightsError(f"{path} is damaged: {path.stat().st_size:,} bytes are too many for a JSON of ours.")
        content = path.read_bytes()
    except OSError as error:
        raise WeightsError(f"{path} cannot be read: {error.strerror or error}.") from None
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
    with open(path, "rb") as file:
        while part := file.read(CHUNK):
            digest.update(part)
    return digest.hexdigest()


def verify(folder: Path) -> None:
    """Raises WeightsError, naming file and reason, unless every file is what the manifest says."""
    manifest = read_json(folder / MANIFEST)
    check_schema(manifest, folder / MANIFEST, SCHEMA)
    lines = manifest.get("files")
    if not isinstance(lines, dict) or not lines:
        raise WeightsError(f"{folder / MANIFEST} is damaged: it lists no files.")
    for name, line in lines.items():
        path = folder / name
        if Path(name).name != name or not isinstance(line, dict):
            raise WeightsError(f"{folder / MANIFEST} is damaged: {name!r} is no line of ours.")
        try:
            size = path.stat().st_size
            if size != line.get("bytes"):
                raise WeightsError(f"{path} is damaged: {size:,} bytes, and the manifest says {line.get('bytes')}.")
            if hash_file(path) != line.get("sha256"):
                raise WeightsError(f"{path} is damaged: its SHA-256 is not the manifest's.")
        except OSError as error:
            raise WeightsError(f"{path} cannot be read: {error.strerror or error}.") from None


# ---- one trainer per run folder ----

_held: set[int] = set()


def _close_in_child() -> None:
    """A forked data worker would keep the lock alive beyond its parent's death."""
    for handle in _held:
        os.close(handle)
    _held.clear()


os.register_at_fork(after_in_child=_close_in_child)


@contextlib.contextmanager
def lock(run: Path) -> Iterator[None]:
    """Holds the run folder, or raises Locked with the holder's pid. The kernel drops the lock with its process."""
    make_folder(run)
    path = run / "lock"
    with disk_errors(path, 16):
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        _take(handle, run)
        with disk_errors(path, 16):
            os.ftruncate(handle, 0)
            os.pwrite(handle, f"{os.getpid()}\n".encode(), 0)
        _held.add(handle)
        yield
    finally:
        _held.discard(handle)
        os.close(handle)


def _take(handle: int, run: Path) -> None:
    """flock, or Locked. A dead holder's forked workers may not yet have run, nor let go: they get a second."""
    deadline = time.monotonic() + 1
    while True:
        try:
            return fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            pid = _holder(handle)
        if time.monotonic() > deadline or _alive(pid):
            raise Locked(
                f"{run} is in use: process {pid} trains in it. Wait for it, stop it, or choose another folder."
            )
        time.sleep(0.01)


def _alive(pid: str) -> bool:
    try:
        os.kill(int(pid), 0)
    except (ProcessLookupError, ValueError):
        return False
    except OSError:  # it is another user's, or in another namespace: somebody's it is
        return True
    return True


def _holder(handle: int) -> str:
    """The pid in a lock file; its writer may be between taking the lock and writing."""
    for _ in range(50):
        if pid := os.pread(handle, 32, 0).decode(errors="replace").strip():
            return pid
        time.sleep(0.01)
    return "unknown"
