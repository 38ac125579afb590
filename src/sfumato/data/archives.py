"""Zip and tar archives and webdataset shards, read member by member; nothing is ever unpacked onto the disk.

A member is known by its number; its path only groups it with its captions and names it in the report. Refused: paths
that leave the archive, links, devices, encrypted and oversized members. Plain tars and zips are read where they lie,
at any time; a compressed tar can only be read from front to back, so its pictures are kept in memory, up to BUDGET
bytes. A webdataset sample is what shares a path without suffix: 000.jpg with 000.txt (caption), 000.cls (label) or
000.json ("text" or "caption", "label").
"""

from __future__ import annotations

import glob
import itertools
import lzma
import os
import re
import stat
import tarfile
import threading
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

from sfumato.core.errors import DataError, ImageError, UnknownName
from sfumato.data.assemble import Look
from sfumato.data.decode import MAX_BYTES
from sfumato.data.folder import open_entries
from sfumato.data.listing import Entry, nothing, passed_over
from sfumato.data.source import BUDGET, Source
from sfumato.data.tables import inside

MOST_SHARDS = 100_000
_BROKEN = (  # what tarfile, zipfile and the decompressors raise on damage
    OSError, EOFError, ValueError, NotImplementedError, RuntimeError, KeyError, IndexError, OverflowError,
    zlib.error, lzma.LZMAError, tarfile.TarError, zipfile.BadZipFile,
)  # fmt: skip


def expand(pattern: str) -> list[Path]:
    """a-{000..012}.tar, {train,test}.tar, *.tar → the files; [] for a path that is no file and holds no pattern."""
    plain = Path(pattern).expanduser()
    if plain.is_file():
        return [plain]
    files: list[Path] = []
    for path in _braces(os.path.expanduser(pattern)):
        if glob.has_magic(path):
            files += [Path(found) for found in sorted(glob.glob(path)) if Path(found).is_file()]
        elif Path(path).is_file():
            files.append(Path(path))
        elif path != str(plain):
            raise UnknownName(f"{pattern!r} names {path}, which is not there.")
    return files


def _braces(pattern: str) -> list[str]:
    match = re.search(r"\{(?:(\d+)\.\.(\d+)|([^{}]*,[^{}]*))\}", pattern)
    if match is None:
        return [pattern]
    low, high, words = match.groups()
    if words is None:
        if int(high) - int(low) >= MOST_SHARDS:
            raise DataError(f"{pattern!r} names more than {MOST_SHARDS} files.")
        parts = [str(k).zfill(len(low)) for k in range(int(low), int(high) + 1)]
    else:
        parts = words.split(",")
    made = (_braces(pattern[: match.start()] + part + pattern[match.end() :]) for part in parts)
    return list(itertools.islice(itertools.chain.from_iterable(made), MOST_SHARDS))


def open_archives(name: str, shards: list[Path], look: Look, split: str) -> Source:
    entries: list[Entry] = []
    for shard in shards:
        entries += list(members(shard, shard.name if len(shards) > 1 else ""))
    return open_entries(name, entries, look, split)


def members(path: Path, shard: str = "") -> Iterator[Entry]:
    """The files in an archive; what the archive breaks off with comes as an entry with a problem."""
    try:
        with open(path, "rb") as file:
            start = file.read(8)
        if start.startswith(b"PK"):
            yield from _zip(path, shard)
        elif start.startswith((b"\x1f\x8b", b"BZh", b"\xfd7zXZ")):
            yield from _packed_tar(path, shard)
        else:
            yield from _tar(path, shard)
    except _BROKEN as error:
        if isinstance(error, DataError):
            raise
        yield Entry(path.name, nothing, f"archive is damaged or ends too early ({type(error).__name__})", shard)


def _entry(path: str, shard: str, read, size: int, problem: str | None) -> Entry | None:
    plain = inside("", path)
    if plain is None:
        return Entry(path, nothing, "path leaves the archive", shard)
    if any(passed_over(part) for part in plain.split("/")):
        return None
    if problem is None and size > MAX_BYTES:
        problem = "too large"
    return Entry(plain, read, problem, shard)


def _zip(path: Path, shard: str) -> Iterator[Entry]:
    archive, lock = zipfile.ZipFile(path), threading.Lock()

    def reader(info: zipfile.ZipInfo):
        def read(limit: int) -> bytes:
            try:
                with lock, archive.open(info) as file:
                    data = file.read(limit + 1)
            except _BROKEN as error:
                raise ImageError(f"{path}, member {info.filename!r}: {error}.", "damaged in the archive") from error
            if len(data) > limit:
                raise ImageError(f"{path}, member {info.filename!r} has more than {limit} bytes.", "too large")
            return data

        return read

    for info in archive.infolist():
        if info.is_dir():
            continue
        mode = info.external_attr >> 16
        problem = "encrypted" if info.flag_bits & 1 else None
        if mode and stat.S_IFMT(mode) not in (0, stat.S_IFREG):
            problem = "not a regular file"
        entry = _entry(info.filename, shard, reader(info), info.file_size, problem)
        if entry is not None:
            yield entry


def _tar(path: Path, shard: str) -> Iterator[Entry]:
    total = path.stat().st_size

    def reader(start: int, size: int):
        def read(limit: int) -> bytes:
            if size > limit:
                raise ImageError(f"A member of {path} has {size} bytes; at most {limit} are read.", "too large")
            try:
                with open(path, "rb") as file:
                    file.seek(start)
                    return file.read(size)
            except OSError as error:
                raise ImageError(f"{path} cannot be read: {error}.", "cannot be read") from error

        return read

    with tarfile.open(path, "r:") as archive:
        for member in archive:
            if member.isdir():
                continue
            problem = None if member.isreg() and not member.issparse() else "not a regular file"
            if member.offset_data + member.size > total:
                problem = "truncated"
            entry = _entry(member.name, shard, reader(member.offset_data, member.size), member.size, problem)
            if entry is not None:
                yield entry


def _packed_tar(path: Path, shard: str) -> Iterator[Entry]:
    held = 0
    with tarfile.open(path, "r|*") as archive:
        for member in archive:
            if member.isdir():
                continue
            problem = None if member.isreg() and not member.issparse() else "not a regular file"
            if member.size > MAX_BYTES:
                problem = "too large"
            data = b""
            if problem is None:
                held += member.size
                if held > BUDGET:
                    raise DataError(
                        f"{path} holds more than {BUDGET >> 30} GiB. Make it a plain tar, which is read in place."
                    )
                file = archive.extractfile(member)
                data = file.read() if file is not None else b""
            entry = _entry(member.name, shard, lambda limit, data=data: data, member.size, problem)
            if entry is not None:
                yield entry
