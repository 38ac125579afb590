"""Zip and tar archives and webdataset shards, read member by member; nothing is ever unpacked onto the disk.

A member is known by its number; its path only groups it with its captions and names it in the report. Refused: paths
that leave the archive, links, devices, encrypted and oversized members. Plain tars and zips are read where they lie,
at any time; a compressed tar can only be read from front to back, so its pictures are kept in memory, up to BUDGET
bytes. A webdataset sample is what shares a path without suffix: 000.jpg with 000.txt (caption), 000.cls (label) or
000.json ("text" or "caption", "label").
"""

from __future__ import annotations

import bz2
import glob
import gzip
import itertools
import lzma
import os
import re
import stat
import tarfile
import threading
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from sfumato.core.errors import DataError, ImageError, UnknownName
from sfumato.data import kinds
from sfumato.data.assemble import Look
from sfumato.data.decode import HEIF, MAX_BYTES
from sfumato.data.folder import open_entries
from sfumato.data.listing import Entry, nothing, passed_over
from sfumato.data.source import BUDGET, Source
from sfumato.data.tables import inside

MOST_SHARDS = 100_000
RATIO, SUSPECT = 100, 16 * 2**20  # times that a member may have shrunk, if it is longer than so many bytes
MOST = 128 * 2**20  # bytes of all members of a compressed tar, up to which they may have shrunk by any factor
CHUNK = 2**20
SHRUNK = f"shrunk more than {RATIO} times, as no picture does"
PACKED = (b"PK", b"\x1f\x8b", b"BZh", b"\xfd7zXZ")
CALLED = (".zip", ".tar", ".tgz", ".gz", ".bz2", ".xz", ".tbz2", ".txz")  # what is damaged if it does not begin so
OTHERS = {  # by their first bytes
    b"7z\xbc\xaf": "a 7z archive",
    b"Rar!": "a rar archive",
    b"%PDF": "a PDF",
    b"\x28\xb5\x2f\xfd": "a zstd archive",
    b"\x04\x22\x4d\x18": "an lz4 archive",
    b"\x89HDF": "an HDF5 file",
    b"SQLite": "a database",
    b"ARROW1": "an Arrow file",
}
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
    warnings: list[str] = []
    for shard in shards:
        entries += list(members(shard, shard.name if len(shards) > 1 else "", warnings))
    return open_entries(name, entries, look, split, warnings)


def members(path: Path, shard: str = "", warnings: list[str] | None = None) -> Iterator[Entry]:
    """The files in an archive; what the archive breaks off with comes as an entry with a problem. `warnings` gets what
    is to be said of its names."""
    try:
        with open(path, "rb") as file:
            start = file.read(512)
        refuse_other(path, start)
        if start.startswith(b"PK"):
            yield from _zip(path, shard, [] if warnings is None else warnings)
        elif start.startswith(PACKED):
            yield from _packed_tar(path, shard)
        else:
            yield from _tar(path, shard)
    except _BROKEN as error:
        if isinstance(error, DataError):
            raise
        yield Entry(path.name, nothing, f"archive is damaged or ends too early ({type(error).__name__})", shard)


def refuse_other(path: Path, start: bytes) -> None:
    """DataError for a file that is no archive, in words that say what it is."""
    if start.startswith(kinds.MAGIC) or start[4:12].startswith((b"ftypavif", *map(str.encode, HEIF))):
        raise DataError(f"{path} is one picture, and a set is a folder of them: put it into one and name the folder.")
    for magic, kind in OTHERS.items():
        if start.startswith(magic):
            raise DataError(f"{path} is {kind}, which is not read. Unpack it and name the folder, or make a zip of it.")
    if "-ubyte" in path.name:
        raise DataError(f"{path} is one of MNIST's four files: name the folder that they lie in.")
    if path.suffix.lower() in (".txt", *kinds.METADATA):
        raise DataError(
            f"{path} is no set of pictures. If it tells of some, name the folder that it lies in with them."
        )
    if not start.startswith(PACKED) and start[257:262] != b"ustar" and path.suffix.lower() not in CALLED:
        raise DataError(f"{path} is no archive that is known, and no set of pictures: name a folder, a zip or a tar.")


def _entry(path: str, shard: str, read, size: int, problem: str | None) -> Entry | None:
    plain = inside("", path)
    if plain is None:
        return Entry(path, nothing, "path leaves the archive", shard)
    if any(passed_over(part) for part in plain.split("/")):
        return None
    if problem is None and size > MAX_BYTES:
        problem = "too large"
    return Entry(plain, read, problem, shard)


def _zip(path: Path, shard: str, warnings: list[str]) -> Iterator[Entry]:
    archive, lock = zipfile.ZipFile(path), threading.Lock()

    def reader(info: zipfile.ZipInfo):
        def read(limit: int) -> bytes:
            try:
                with lock, archive.open(info) as file:
                    data = file.read(1024)
                    if kinds.may_be_read(info.filename, data):
                        data += file.read(limit + 1 - len(data))
            except _BROKEN as error:
                raise ImageError(f"{path}, member {info.filename!r}: {error}.", "damaged in the archive") from error
            if len(data) > limit:
                raise ImageError(f"{path}, member {info.filename!r} has more than {limit} bytes.", "too large")
            return data

        return read

    names = zip_names(archive.infolist(), warnings)
    for info, name in zip(archive.infolist(), names):
        if info.is_dir() or name.endswith("\\"):
            continue
        mode = info.external_attr >> 16
        problem = "encrypted" if info.flag_bits & 1 else None
        if mode and stat.S_IFMT(mode) not in (0, stat.S_IFREG):
            problem = "not a regular file"
        if info.file_size > max(SUSPECT, RATIO * info.compress_size):
            problem = problem or SHRUNK
        entry = _entry(name, shard, reader(info), info.file_size, problem)
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
    with open(path, "rb") as raw, _stream(raw) as stream, tarfile.open(fileobj=stream, mode="r|") as archive:
        for member in archive:
            if member.isdir():
                continue
            problem = None if member.isreg() and not member.issparse() else "not a regular file"
            if member.size > MAX_BYTES:
                problem = "too large"
            data = b""
            if problem is None:
                data, problem = _unpacked(archive, member, raw, held)
                held += len(data)
                if held > BUDGET:
                    raise DataError(
                        f"{path} holds more than {BUDGET >> 30} GiB. Make it a plain tar, which is read in place."
                    )
            entry = _entry(member.name, shard, lambda limit, data=data: data, member.size, problem)
            if entry is not None:
                yield entry


def _stream(raw: BinaryIO) -> BinaryIO:
    """What `raw` holds packed, a little at a time; tarfile unpacks whole blocks, however long they become."""
    start = raw.read(2)
    raw.seek(0)
    opener: Any = {b"\x1f\x8b": gzip.open, b"BZ": bz2.open, b"\xfd7": lzma.open}[start]
    return opener(raw)


def _unpacked(archive: tarfile.TarFile, member: tarfile.TarInfo, raw: BinaryIO, held: int) -> tuple[bytes, str | None]:
    """(the bytes, None), or (nothing, why) where few bytes of `raw` became many: this member's, or all those held."""
    file, before = archive.extractfile(member), raw.tell()
    if file is None:
        return b"", "not a regular file"
    parts = [file.read(1024)]
    if kinds.may_be_read(member.name, parts[0]):
        size = len(parts[0])
        while part := file.read(CHUNK):
            parts.append(part)
            size += len(part)
            swollen = size > max(SUSPECT, RATIO * (raw.tell() - before))
            if swollen or held + size > max(MOST, RATIO * raw.tell()):
                return b"", SHRUNK
    return b"".join(parts), None


# ---- names ----

# What the systems of a country write where there is no flag, and which letters are common there. The first is what
# many tools write without saying so. Korean bytes are common Chinese ones too, so names of a few letters cannot be told
# apart: they read as Chinese, and the warning says so.
ENCODINGS: dict[str, Callable[[str], bool]] = {
    "utf-8": str.isprintable,
    "gbk": lambda c: 0xB0 <= c.encode("gb2312", "ignore")[:1].ljust(1, b"\0")[0] <= 0xD7,  # level 1: 3,755 in daily use
    "cp932": lambda c: "\u3040" <= c <= "\u30ff" or "\u4e00" <= c <= "\u9fff",
    "big5": lambda c: 0xA4 <= c.encode("big5", "ignore")[:1].ljust(1, b"\0")[0] <= 0xC6,  # level 1
}
SURE = 0.7  # the part of the letters that must be common ones


def zip_names(members: list[zipfile.ZipInfo], warnings: list[str]) -> list[str]:
    """The members' names, as their makers meant them; a warning where that was to be guessed."""
    names = [info.filename for info in members]
    try:
        raw = [
            name.encode("cp437") if not (info.flag_bits & 0x800 or name.isascii()) else None
            for info, name in zip(members, names)
        ]
    except UnicodeEncodeError:  # it was none of the standard's letters: somebody changed the names
        return names
    if not any(raw):
        return names
    encoding = _encoding_of([name for name in raw if name is not None])
    if encoding is None:
        return names
    warnings.append(
        f"The zip does not say in which encoding its names are; they are read as {encoding.upper()}. If they look "
        "wrong, make the zip anew with UTF-8 names."
    )
    return [name if data is None else data.decode(encoding) for name, data in zip(names, raw)]


def _encoding_of(names: list[bytes]) -> str | None:
    """The encoding that reads all names, and most of their letters as common ones; None: that of the standard."""
    best, most = None, SURE
    for encoding, common in ENCODINGS.items():
        try:
            letters = [c for name in names for c in name.decode(encoding) if ord(c) > 127]
        except UnicodeDecodeError:
            continue
        part = sum(map(common, letters)) / max(len(letters), 1)
        if part > most + 0.05:  # the earlier one, where two read alike
            best, most = encoding, part
    return best
