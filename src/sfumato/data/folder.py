"""Files → a set of pictures with labels and captions: the same rules for folders, zips and tars.

    labels     metadata, else a.cls or a.json beside a.jpg, else the first folder on the way to a picture, if there are
               two or more such folders and every picture lies in one
    captions   metadata, else a.txt or a.caption beside a.jpg (one caption), else "text" or "caption" of a.json
    parts      folders train, test, val (valid, validation) on top, if every picture lies in one; `split` chooses
    order      by path; labels by name, numbers by value

A folder that all pictures share is looked through. A file counts as a picture by its suffix, or by its first bytes
when it has none that we know. Files that plainly are no pictures (README.md) are listed as skipped, but only failed
pictures, broken metadata rows, links out, FIFOs and pictures in formats that are not opened (HEIC, SVG …) count as
bad; more than `allow_bad` of them is an error.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from sfumato.core.errors import DataError, ImageError, UnknownName
from sfumato.core.registry import nearest
from sfumato.data import captions, tables
from sfumato.data.assemble import Candidate, Look, assemble
from sfumato.data.decode import MAX_BYTES
from sfumato.data.listing import Entry, walk
from sfumato.data.source import Source

PICTURES = {".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".gif", ".bmp", ".dib", ".tif", ".tiff"}
SIDECARS = (".txt", ".caption", ".cls", ".json")
PLAIN = {
    *SIDECARS, ".md", ".rst", ".csv", ".tsv", ".jsonl", ".parquet", ".pdf", ".html", ".htm", ".xml", ".yaml", ".yml",
    ".toml", ".ini", ".cfg", ".log", ".py", ".sh", ".npy", ".npz", ".safetensors", ".zip", ".tar", ".gz", ".mp4",
}  # fmt: skip
PARTS = {"train": "train", "test": "test", "val": "valid", "valid": "valid", "validation": "valid"}
_MAGIC = (b"\x89PNG", b"\xff\xd8\xff", b"GIF8", b"RIFF", b"BM", b"II*\0", b"MM\0*")


def open_folder(path: Path, look: Look, split: str) -> Source:
    return open_entries(str(path), list(walk(path)), look, split)


@dataclass
class Found:
    """What the entries of a set are."""

    pictures: list[Entry] = field(default_factory=list)
    sidecars: dict[tuple[str, str], dict[str, Entry]] = field(default_factory=lambda: defaultdict(dict))
    tables: list[Entry] = field(default_factory=list)
    bad: list[tuple[str, str]] = field(default_factory=list)
    other: list[tuple[str, str]] = field(default_factory=list)


def open_entries(name: str, entries: list[Entry], look: Look, split: str) -> Source:
    found = sort_out(entries)
    warnings: list[str] = []
    classes = choose_part(found, split, name)
    if found.tables:
        candidates = _by_tables(found, warnings)
    else:
        candidates = [_by_sidecar(entry, found, classes) for entry in found.pictures]
        used = {(entry.shard, entry.stem) for entry in found.pictures}
        if lonely := sum(key not in used and ".txt" in files for key, files in found.sidecars.items()):
            warnings.append(f"{lonely} .txt files have no picture of their name.")
    return assemble(name, candidates, found.bad, found.other, look, warnings, settings=["split", split])


def sort_out(entries: Iterable[Entry]) -> Found:
    found = Found()
    for entry in entries:
        if entry.problem:
            found.bad.append((entry.shown, entry.problem))
        elif entry.path.rpartition("/")[2].lower() in tables.NAMES:
            found.tables.append(entry)
        elif entry.suffix in PICTURES or (entry.suffix not in PLAIN and _looks_like_a_picture(entry)):
            found.pictures.append(entry)
        elif entry.suffix in SIDECARS:
            found.sidecars[entry.shard, entry.stem][entry.suffix] = entry
        elif entry.suffix in PLAIN or not entry.suffix:
            found.other.append((entry.shown, "not a picture"))
        else:
            found.bad.append((entry.shown, "not an image format that is opened"))
    return found


def _looks_like_a_picture(entry: Entry) -> bool:
    try:
        return entry.read(MAX_BYTES).startswith(_MAGIC)
    except ImageError:
        return False


def choose_part(found: Found, split: str, name: str) -> dict[tuple[str, str], str]:
    """Keeps the pictures and tables of one part, and returns the path of each without the folders that all share."""
    paths = {(e.shard, e.path): e.path for e in found.pictures}
    paths = _look_through(paths, keep=set(PARTS))
    tops = {path.partition("/")[0] for path in paths.values() if "/" in path}
    if paths and tops <= set(PARTS) and all("/" in path for path in paths.values()):
        parts = {PARTS[top] for top in tops}
        if split != "all" and split not in parts:
            raise UnknownName(f"{name} has no part called {split!r}. {nearest(split, parts)}")
        paths = {k: p.partition("/")[2] for k, p in paths.items() if split in ("all", PARTS[p.partition("/")[0]])}
        gone = {(e.shard, e.path) for e in found.pictures} - set(paths)
        found.pictures = [e for e in found.pictures if (e.shard, e.path) in paths]
        left_out = {path.rpartition("/")[0] for _, path in gone} - {path.rpartition("/")[0] for _, path in paths}
        found.tables = [e for e in found.tables if e.folder not in left_out]
    elif split not in ("train", "all"):
        raise UnknownName(f"{name} has no part called {split!r}: put the pictures into folders train/ and {split}/.")
    return _look_through(paths)


def _look_through(paths: dict[tuple[str, str], str], keep: Iterable[str] = ()) -> dict[tuple[str, str], str]:
    while True:
        tops = {path.partition("/")[0] if "/" in path else None for path in paths.values()}
        if len(tops) != 1 or None in tops or tops <= set(keep):
            return paths
        paths = {key: path.partition("/")[2] for key, path in paths.items()}


def _class_of(entry: Entry, classes: dict[tuple[str, str], str]) -> str | None:
    folder, slash, _ = classes[entry.shard, entry.path].partition("/")
    return folder if slash else None


def _by_sidecar(entry: Entry, found: Found, classes: dict[tuple[str, str], str]) -> Candidate:
    files = found.sidecars.get((entry.shard, entry.stem), {})
    where = entry.shown
    try:
        label, texts = _class_of(entry, classes), tuple[str, ...]()
        if ".json" in files:
            fields = json.loads(captions.text_of(files[".json"].read(captions.LARGEST_FILE), files[".json"].shown))
            if isinstance(fields, dict):
                label, texts = (
                    tables.label_of(tables.first(fields, tables.LABEL)) or label,
                    tables.texts_of(tables.first(fields, tables.TEXT)),
                )
        if ".cls" in files:
            label = captions.text_of(files[".cls"].read(captions.LARGEST_FILE), files[".cls"].shown).strip() or label
        for suffix in (".caption", ".txt"):
            if suffix in files:
                texts = (captions.text_of(files[suffix].read(captions.LARGEST_FILE), files[suffix].shown),)
        return Candidate(where, entry.read, label, texts)
    except ImageError as error:
        return Candidate(where, entry.read, problem=f"caption: {error.reason}")
    except DataError:
        return Candidate(where, entry.read, problem="caption is not UTF-8 text")
    except (ValueError, RecursionError):
        return Candidate(where, entry.read, problem="json beside it is damaged")


def _by_tables(found: Found, warnings: list[str]) -> list[Candidate]:
    pictures = {(entry.shard, entry.path): entry for entry in found.pictures}
    refused = {file for file, _ in (*found.bad, *found.other)}
    texts: dict[tuple[str, str], list[str]] = defaultdict(list)
    labels: dict[tuple[str, str], set[str]] = defaultdict(set)
    for table in found.tables:
        for row in tables.rows(table.read(MAX_BYTES), table.shown, table.folder):
            key = (table.shard, row.file)
            if row.problem:
                found.bad.append((row.where, row.problem))
            elif key in pictures:
                texts[key] += row.texts
                labels[key] |= {row.label} - {None}  # type: ignore[arg-type]
            elif row.file not in refused:
                found.bad.append((row.where, "no such picture"))
    named = [key for key in pictures if key in labels]
    if unnamed := len(pictures) - len(named):
        warnings.append(f"{unnamed} pictures are named in no metadata file and left out.")
    made = []
    for key in named:
        two = "two labels" if len(labels[key]) > 1 else None
        made.append(
            Candidate(pictures[key].shown, pictures[key].read, next(iter(labels[key]), None), tuple(texts[key]), two)
        )
    return made
