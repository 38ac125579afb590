"""Files of text → a set: which of them a folder gives, their rows on a shelf, what is bad and why, a report.

    folder       is a set of texts if it holds such files, and neither pictures nor archives; else it is one of pictures
    parts        folders on top, or files (train.txt, test.jsonl, valid-00000-of-00002.parquet), called as in parts.py
    rows         textfiles.py says what a row of a file is; files come by their path, rows as they stand
    aside        README, LICENSE and the like, where there are others; files of other kinds
    empty        rows that say nothing are left out and counted
    copies       are kept, and counted in a warning
    bad          rows in other bytes than UTF-8, broken lines of tables, files that are no regular ones: skipped and
                 named up to the part `allow_bad`; a file that breaks off in the middle is refused
    labels       of a column `label`, if every row has one and there are two or more

The identity is SHA-256 over the cleaned rows and their labels, file by file: neither names nor dates count.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from array import array
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from sfumato.core.classes import natural
from sfumato.core.errors import DataError, ImageError, UnknownName, UsageError
from sfumato.core.registry import nearest
from sfumato.data import kinds
from sfumato.data.assemble import Failures, Look, refuse_bad
from sfumato.data.hub import is_of_texts
from sfumato.data.listing import Entry, homes
from sfumato.data.parts import Parts, part_of
from sfumato.data.shelf import Place, Shelf
from sfumato.data.textfiles import Row, TextFile, kind_of
from sfumato.data.texts import NoTexts, Tally, Texts

NAMED = 1000  # bad rows that the report names
MOST_LABELS = 2**16
WIDEST = 2**16  # characters of a window
ARCHIVES = (".tar", ".zip", ".tgz")
_NUMBER = re.compile(r"[+-]?\d+([.,:/-]\d+)*%?")
_ABOUT = ("readme", "license", "licence", "copying", "notice", "authors", "changelog", "requirements")
_SHARD = re.compile(r"(.+?)([-_.]\d+(-of-\d+)?)?")


class Reading:
    """Rows of files, gathered: texts on a shelf, labels by number, what is bad, and a hash of each file."""

    def __init__(self) -> None:
        self.shelf, self.tally = Shelf(), Tally()
        self.ids = array("i")
        self.names: dict[str | None, int] = {None: -1}  # labels, as they were met
        self.good = 0  # rows of the files, of which windows are made
        self.bad: Failures = []
        self.bad_count: Counter[str] = Counter()
        self.several = 0
        self.digests: dict[str, str] = {}
        self.warnings: list[str] = []

    def read(self, file: TextFile) -> None:
        """NoTexts where there is none; nothing was gathered then."""
        before, digest, numbers, problems, empty = len(self.shelf), hashlib.sha256(), True, 0, 0
        place = Place(file.path, file.homes, file.most) if file.in_place else None
        self.shelf.begin(place)
        for row in file.rows():
            if row.problem is not None:
                problems += 1
                self.fail(f"{file.shown}:{row.number}", row.problem)
            elif not row.text:
                empty += 1
            else:
                numbers = numbers and _NUMBER.fullmatch(row.text) is not None
                label = "" if row.label is None else json.dumps(row.label)
                digest.update(f"{label}\t{row.text}\n".encode())
                self._keep(row)
        self.tally.empty += empty
        self.good += file.good
        if len(self.shelf) == before and not problems:
            raise NoTexts(f"{file.shown} has no rows" + f", but {empty} empty lines" * bool(empty) + ".")
        if place is not None:
            place.digest = file.raw.hexdigest()
        self.digests[file.shown] = digest.hexdigest()
        if numbers and len(self.shelf) > before:
            self.warnings.append(f"Every row of {file.shown} is a number: is there no other column, or file, of texts?")

    def fail(self, where: str, reason: str) -> None:
        self.bad_count[reason] += 1
        if sum(self.bad_count.values()) <= NAMED:
            self.bad.append((where, reason))

    def _keep(self, row: Row) -> None:
        self.tally.add(row.text)
        self.several += row.several
        self.shelf.keep(row.text, row.span)
        if len(self.names) <= MOST_LABELS:
            self.ids.append(self.names.setdefault(row.label, len(self.names) - 1))

    def labels(self) -> tuple[np.ndarray | None, list[str] | None]:
        """(the number of each row's label, their names in order), or neither."""
        names = [name for name in self.names if name is not None]
        if len(names) < 2:
            return None, None
        ids = np.frombuffer(self.ids, np.int32)
        if len(self.names) > MOST_LABELS:
            self.warnings.append(f"There are more than {MOST_LABELS:,} labels, so the set is used without labels.")
            return None, None
        if missing := int((ids < 0).sum()):
            self.warnings.append(f"{missing} of {len(ids)} texts have no label, so the set is used without labels.")
            return None, None
        ordered = sorted(names, key=natural)
        place = {name: k for k, name in enumerate(ordered)}
        return np.array([place[name] for name in names], np.int32)[ids], ordered


def open_texts(
    name: str,
    files: Sequence[TextFile],
    look: Look,
    bad: Sequence[tuple[str, str]] = (),
    other: Sequence[tuple[str, str]] = (),
    warnings: Sequence[str] = (),
) -> Texts:
    """The texts of all files; `bad` counts against allow_bad, `other` is only listed."""
    reading, aside = Reading(), list(other)
    for where, reason in bad:
        reading.fail(where, reason)
    for file in files:
        try:
            reading.read(file)
        except ImageError as error:
            if len(files) == 1:
                raise DataError(str(error).replace("picture", "text")) from error
            reading.fail(file.shown, error.reason)
        except NoTexts as error:
            if len(files) == 1:
                raise
            aside.append((file.shown, str(error).removeprefix(f"{file.shown} ").rstrip(".")))
    reading.shelf.done()
    count = sum(reading.bad_count.values())
    refuse_bad(name, reading.good, reading.bad, look.allow_bad, reading.bad_count, "rows")
    if not len(reading.shelf):
        why = "; ".join(f"{file}: {reason}" for file, reason in (*reading.bad, *aside)[:5])
        raise NoTexts(f"{name} has no texts ({why}).")
    facts, said = reading.tally.report(name)
    label_ids, labels = reading.labels()
    if reading.several:
        said.append(f"{reading.several} texts have several labels each, which no class could be; they count as none.")
    if count > len(reading.bad):
        said.append(f"{count:,} rows are bad, of which the report names {len(reading.bad)}.")
    shelf, number = reading.shelf, len(reading.shelf)
    identity = json.dumps(["texts", *reading.digests.values()])
    return Texts(
        name,
        np.arange(number, dtype=np.int32 if number < 2**31 else np.int64),
        identity=hashlib.sha256(identity.encode()).hexdigest(),
        label_ids=label_ids,
        labels=labels,
        text=lambda i, choice: shelf.text(i),
        report={
            **facts,
            "good": reading.good,
            "bad": count,
            "reasons": dict(reading.bad_count),
            "skipped": [{"file": where, "reason": reason} for where, reason in (*reading.bad, *aside)],
            "warnings": [*warnings, *reading.warnings, *said],
        },
        files={file: digest[:16] for file, digest in reading.digests.items()},
    )


# ---- which files ----


def window_of(query: str) -> int | None:
    """The number of "window=256"; None for no query."""
    key, _, value = query.partition("=")
    if not query:
        return None
    if key != "window":
        raise UnknownName(f"A set of texts has no setting called {key!r}. {nearest(key, ['window'])}")
    if not value.isdecimal() or not 1 <= int(value) <= WIDEST:
        raise UsageError(f"A window has 1 to {WIDEST:,} characters, as in window=256; not {value!r}.")
    return int(value)


def are_texts(entries: Sequence[Entry]) -> bool:
    """Whether the files of a folder are a set of texts."""
    given = [entry for entry in entries if not entry.aside]
    pictures = kinds.PICTURES | kinds.HEIC | kinds.RAW
    if any(entry.suffix in pictures or entry.suffix in ARCHIVES for entry in given):
        return False
    if not any(kind_of(entry.path) and not _about(entry) for entry in given):
        return False
    if not all(is_of_texts(e.at) for e in given if e.suffix == ".parquet" and e.at and not e.problem):
        return False
    unknown = (entry for entry in given if entry.suffix not in kinds.PLAIN and not entry.problem)
    return not any(kinds.looks_like_a_picture(entry) for entry in unknown)


def open_corpus(path: Path, entries: Sequence[Entry], look: Look, split: str, query: str) -> Texts:
    """The texts of a folder."""
    name, window = str(path), window_of(query)
    _no_pictures(name, look)
    bad, other, files = [], [], {}
    for entry in entries:
        kind = kind_of(entry.path)
        if entry.aside or kind is None or _about(entry):
            other.append((entry.shown, entry.aside or entry.problem or "no file of texts"))
        elif entry.problem or entry.at is None:
            bad.append((entry.shown, entry.problem or "cannot be opened"))
        else:
            files[entry.path, _as_part(entry.path)] = entry
    parts = Parts(files, split, name, noun="files")
    other += [(files[key].shown, "beside the parts") for key in sorted(parts.aside)]
    kept = [TextFile(e.at, e.shown, homes(path), window) for key, e in files.items() if key in parts.paths and e.at]
    made = open_texts(name, kept, look, bad, other, parts.warnings)
    made.report["parts"] = {part: n for part, n in sorted(parts.held.items())}
    return made


def is_text(path: Path) -> bool:
    """Whether a file that was named is one of texts: by its name, unless it begins like something else."""
    kind = kind_of(path.name)
    if kind == ".parquet" or kind is None:
        return kind is not None and is_of_texts(path)
    try:
        with open(path, "rb") as file:
            start = file.read(512)
    except OSError:
        return True  # who reads it will say why
    marked = start.startswith((*kinds.MAGIC, b"PAR1", b"PK\3\4")) and b"\0" in start
    return not marked


def open_files(name: str, paths: Sequence[Path], look: Look, split: str, query: str) -> Texts:
    """The texts of files that were named."""
    _no_pictures(name, look)
    window = window_of(query)
    if split not in ("train", "all"):
        raise UnknownName(f"{name} has no part called {split!r}: put files train.txt and {split}.txt into a folder.")
    return open_texts(name, [TextFile(path, path.name, (), window) for path in paths], look)


def _no_pictures(name: str, look: Look) -> None:
    if look.words:
        raise UsageError(f"{name} is a set of texts, and not of pictures that have captions: leave :captions out.")


def _about(entry: Entry) -> bool:
    """Whether a file tells of the set, by its name."""
    return os.path.basename(entry.path).casefold().partition(".")[0] in _ABOUT


def _as_part(path: str) -> str:
    """train.txt as train/train.txt, so that files are parts as folders are."""
    folder, slash, name = path.rpartition("/")
    match = _SHARD.fullmatch(name.partition(".")[0])
    return f"{folder}{slash}{match[1]}/{name}" if match and part_of(match[1]) else path
