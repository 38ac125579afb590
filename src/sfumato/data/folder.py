"""Files → a set of pictures with labels and captions: the same rules for folders, zips and tars.

    labels     metadata, else a.cls or a.json beside a.jpg, else the first folder on the way to a picture, if there are
               two or more such folders and every picture lies in one
    captions   metadata, else a.txt or a.caption beside a.jpg (one caption), else "text" or "caption" of a.json
    parts      folders train, test, val on top (parts.py); `split` chooses
    order      by path; labels by name, numbers by value

Metadata that says captions only leaves the folders their classes. A folder that all pictures share is looked through. A
file counts as a picture by its suffix, or by its first bytes when it has none that we know. What is no picture
(kinds.py) is listed as skipped, but only failed pictures, broken metadata rows, links out, FIFOs and pictures in
formats that are not opened count as bad; more than `allow_bad` of them is an error. What looks like metadata and is not
used is named in a warning.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from sfumato.core.errors import DataError, ImageError, UnknownName
from sfumato.data import captions, corpus, kinds, tables
from sfumato.data.assemble import Candidate, Look, assemble
from sfumato.data.listing import Entry, is_run, walk
from sfumato.data.parts import Key, Parts
from sfumato.data.source import Source
from sfumato.data.texts import Texts

LARGEST_TABLE = 256 * 2**20
NAMED = 3  # files that a warning names


def open_folder(path: Path, look: Look, split: str, query: str = "") -> Source | Texts:
    """Pictures, or texts where there are none (corpus.py); these have a query."""
    if is_run(path):
        raise DataError(f"{path} is a run of sfumato, and no set of pictures. Name the folder that it was trained on.")
    entries = list(walk(path))
    if corpus.are_texts(entries):
        return corpus.open_corpus(path, entries, look, split, query)
    if query:
        raise UnknownName(f"{path} is a set of pictures, and has no setting {query!r}; it has :captions.")
    packed = sorted({entry.suffix for entry in entries} & {".parquet", ".tar", ".zip"})
    if packed and all(entry.suffix in kinds.PLAIN or entry.aside for entry in entries):
        shown = next(entry.folder for entry in entries if entry.suffix == packed[0])
        pattern = path / shown / f"*{packed[0]}"
        raise DataError(f"{path} holds no pictures, but {packed[0]} files. Name these, as in '{pattern}'.")
    return open_entries(str(path), entries, look, split)


@dataclass
class Found:
    """What the entries of a set are."""

    pictures: list[Entry] = field(default_factory=list)
    sidecars: dict[Key, dict[str, Entry]] = field(default_factory=lambda: defaultdict(dict))
    tables: list[Entry] = field(default_factory=list)
    bad: list[tuple[str, str]] = field(default_factory=list)
    other: list[tuple[str, str]] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    unused: dict[str, str] = field(default_factory=dict)  # of what looks like metadata, and why
    counts: Counter[str] = field(default_factory=Counter)  # what was met and left aside, one picture at a time
    elsewhere: list[Entry] = field(default_factory=list)  # pictures of the parts that were not asked for

    def warn_of_the_unused(self) -> None:
        """One warning a reason."""
        reasons: dict[str, list[str]] = defaultdict(list)
        for file, reason in self.unused.items():
            reasons[reason].append(file)
        for reason, files in reasons.items():
            more = f" and {len(files) - NAMED} more" if len(files) > NAMED else ""
            self.warnings.append(f"Not used, since {reason}: {', '.join(sorted(files)[:NAMED])}{more}.")
        if n := self.counts["boxes"]:
            self.warnings.append(f"{n} .txt files hold boxes (a class and numbers a line), and are no captions.")
        if n := self.counts["json without words"]:
            self.warnings.append(f"{n} .json files beside pictures have {tables.WANTED}, and say nothing.")
        if n := self.counts["several labels"]:
            self.warnings.append(f"{n} pictures have several labels each, which no class could be; they count as none.")


def open_entries(name: str, entries: list[Entry], look: Look, split: str, warnings: Iterable[str] = ()) -> Source:
    found = sort_out(entries)
    found.warnings += warnings
    parts = _choose_part(found, split, name)
    classes = {key: folder for key, path in parts.paths.items() for folder, slash, _ in [path.partition("/")] if slash}
    rows = _table_rows(found)
    if rows is not None:
        candidates = _by_tables(found, rows, classes)
    else:
        candidates = [_by_sidecar(entry, found, classes) for entry in found.pictures]
        used = {(entry.shard, entry.stem) for entry in found.pictures}
        if lonely := sum(key not in used and ".txt" in files for key, files in found.sidecars.items()):
            found.warnings.append(f"{lonely} .txt files have no picture of their name.")
    found.warn_of_the_unused()
    source = assemble(name, candidates, found.bad, found.other, look, found.warnings, settings=["split", split])
    source.report["parts"] = {part: n for part, n in sorted(parts.held.items())}
    return source


def sort_out(entries: Iterable[Entry]) -> Found:
    found, rest = Found(), []
    known = kinds.PLAIN | kinds.FILMS | kinds.EDITS | kinds.RAW
    for entry in entries:
        if entry.aside:
            found.other.append((entry.shown, entry.aside))
        elif entry.problem or entry.suffix in known:
            rest.append(entry)
        elif entry.suffix in kinds.PICTURES | kinds.HEIC or kinds.looks_like_a_picture(entry):
            found.pictures.append(entry)
        else:
            rest.append(entry)
    stems = {(e.shard, e.stem.casefold()) for e in found.pictures}
    paths = {(e.shard, e.path.casefold()) for e in found.pictures}
    for entry in rest:
        _no_picture(found, entry, stems, paths)
    maps = kinds.maps_among(found.pictures)
    found.pictures = [entry for entry in found.pictures if entry not in maps]
    found.other += [(entry.shown, "belongs to another picture") for entry in sorted(maps, key=lambda e: e.path)]
    if maps:
        first = min(entry.shown for entry in maps)
        found.warnings.append(f"{len(maps)} pictures belong to others ({first}, …: maps or masks) and are left aside.")
    return found


def _no_picture(found: Found, entry: Entry, stems: set[Key], paths: set[Key]) -> None:
    name, said = entry.path.rpartition("/")[2].lower(), kinds.companion(entry, stems, paths)
    if entry.problem:
        why = said if said and entry.problem == "too large" else None
        (found.other if why else found.bad).append((entry.shown, why or entry.problem))
    elif said:
        found.other.append((entry.shown, said))
    elif name in tables.NAMES:
        found.tables.append(entry)
    elif entry.suffix in kinds.SIDECARS and (entry.suffix != ".json" or (entry.shard, entry.stem.casefold()) in stems):
        found.sidecars[entry.shard, entry.stem][entry.suffix] = entry
    elif entry.suffix in tables.KINDS:
        found.tables.append(entry)
    elif entry.suffix in kinds.PLAIN or not entry.suffix:
        found.other.append((entry.shown, "not a picture"))
        if entry.suffix in kinds.METADATA:
            found.unused[entry.shown] = f"{entry.suffix} files are not read"
    else:
        found.bad.append((entry.shown, kinds.refusal(entry)))


def _choose_part(found: Found, split: str, name: str) -> Parts:
    """Keeps the pictures and tables of one part."""
    parts = Parts([(e.shard, e.path) for e in found.pictures], split, name)
    gone = {(e.shard, e.path) for e in found.pictures} - set(parts.paths)
    found.other += [(e.shown, "beside the parts") for e in found.pictures if (e.shard, e.path) in parts.aside]
    found.elsewhere = [e for e in found.pictures if (e.shard, e.path) in gone - parts.aside]
    found.pictures = [e for e in found.pictures if (e.shard, e.path) in parts.paths]
    left_out = {path.rpartition("/")[0] for _, path in gone - parts.aside}
    left_out -= {path.rpartition("/")[0] for _, path in parts.paths}
    found.tables = [e for e in found.tables if e.folder not in left_out]
    found.warnings += parts.warnings
    return parts


# ---- what is said of the pictures ----


def _by_sidecar(entry: Entry, found: Found, classes: dict[Key, str]) -> Candidate:
    files = found.sidecars.get((entry.shard, entry.stem), {})
    where = entry.shown
    try:
        label, texts = classes.get((entry.shard, entry.path)), tuple[str, ...]()
        if ".json" in files:
            try:
                fields = json.loads(captions.text_of(files[".json"].read(captions.LARGEST_FILE), files[".json"].shown))
            except (ValueError, RecursionError) as error:
                if isinstance(error, DataError):
                    raise
                return Candidate(where, entry.read, problem="json beside it is damaged")
            said, words = None, None
            if isinstance(fields, dict):
                fields = tables.folded(fields)
                said, words = tables.first(fields, tables.LABEL), tables.first(fields, tables.TEXT)
            found.counts["several labels"] += tables.several(said)
            found.counts["json without words"] += said is None and words is None
            label, texts = tables.label_of(said) or label, tables.texts_of(words)
        if ".cls" in files:
            text = captions.text_of(files[".cls"].read(captions.LARGEST_FILE), files[".cls"].shown)
            label = tables.label_of(text) or label
        for suffix in (".caption", ".txt"):
            if suffix in files:
                text = captions.text_of(files[suffix].read(captions.LARGEST_FILE), files[suffix].shown)
                if suffix == ".txt" and kinds.are_boxes(text):
                    found.counts["boxes"] += 1
                else:
                    texts = (text,)
        return Candidate(where, entry.read, label, texts)
    except ImageError as error:
        return Candidate(where, entry.read, problem=f"caption: {error.reason}")
    except DataError:
        return Candidate(where, entry.read, problem="caption is not UTF-8 text")
    except ValueError as error:
        return Candidate(where, entry.read, problem=str(error))


@dataclass
class Rows:
    """What tables say, by picture."""

    texts: dict[Key, list[str]] = field(default_factory=lambda: defaultdict(list))
    labels: dict[Key, set[str]] = field(default_factory=lambda: defaultdict(set))
    storage: bool = False  # whether folders are storage and no classes, as StyleGAN's dataset.json has it
    several: int = 0  # pictures with more than one label each

    def add(self, key: Key, row: tables.Row) -> None:
        self.texts[key] += row.texts
        self.labels[key] |= {row.label} - {None}  # type: ignore[arg-type]
        self.several += row.several


def _table_rows(found: Found) -> Rows | None:
    """The rows of all tables that name pictures of the set; None where there are none. A table that is called metadata
    must be one; another is read as one if it names a picture, and else is left aside and said."""
    key_of, elsewhere = _Lookup(found.pictures), _Lookup(found.elsewhere)
    refused = {file for file, _ in (*found.bad, *found.other)}
    made, any_used = Rows(), False
    for table in found.tables:
        name = table.path.rpartition("/")[2].lower()
        strict = name in tables.NAMES
        rows = _rows_of(table, strict, found)
        if rows is None:
            continue
        if name == "metadata.json" and not any(kinds.named_as_a_picture(row.file) for row in rows):
            strict = False  # what an album says of itself
        bad, named, others = [], 0, 0
        for row in rows:
            key = None if row.problem else key_of(table.shard, row.file)
            if key is not None:
                named += 1
                made.add(key, row)
            elif row.problem or elsewhere(table.shard, row.file) is None:
                bad += [(row.where, row.problem or "no such picture")] * (row.file not in refused or bool(row.problem))
            else:
                others += 1
        made.storage |= name == tables.STYLEGAN and bool(named or not rows)
        any_used |= bool(named) or (strict and name != tables.STYLEGAN)
        if strict or named:
            found.bad += bad
            _say_used(found, table, rows, named, strict)
        else:
            found.other.append((table.shown, "of another part" if others else "not a picture"))
            found.unused |= {} if others else {table.shown: "they name no picture of the set"}
    found.counts["several labels"] += made.several
    return made if any_used or made.storage else None


def _rows_of(table: Entry, strict: bool, found: Found) -> list[tables.Row] | None:
    """The rows of a table; None for one that is left aside."""
    try:
        return list(tables.rows(table.read(LARGEST_TABLE), table.shown, table.folder))
    except ImageError as error:
        raise DataError(f"{table.shown} cannot be read: {error}") from error
    except DataError as error:
        if strict:
            raise
        found.other.append((table.shown, "not a picture"))
        found.unused[table.shown] = "no column of theirs names pictures" if "column" in str(error) else str(error)
        return None


def _say_used(found: Found, table: Entry, rows: list[tables.Row], named: int, strict: bool) -> None:
    if not strict:
        found.warnings.append(f"{table.shown} is read as metadata: it names {named} pictures of the set.")
    if named and not any(row.label or row.texts or row.several for row in rows):
        found.warnings.append(f"{table.shown} names pictures, but has {tables.WANTED}, so it says nothing of them.")


class _Lookup:
    """A picture by the path that a table gives: as it is, else in another case where that is one picture only."""

    def __init__(self, pictures: list[Entry]):
        self.exact = {(entry.shard, entry.path) for entry in pictures}
        folded: dict[Key, set[Key]] = defaultdict(set)
        for shard, path in self.exact:
            folded[shard, path.casefold()].add((shard, path))
        self.folded = {key: next(iter(same)) for key, same in folded.items() if len(same) == 1}

    def __call__(self, shard: str, path: str) -> Key | None:
        return (shard, path) if (shard, path) in self.exact else self.folded.get((shard, path.casefold()))


def _by_tables(found: Found, rows: Rows, classes: dict[Key, str]) -> list[Candidate]:
    pictures = {(entry.shard, entry.path): entry for entry in found.pictures}
    named = [key for key in pictures if key in rows.labels] if not rows.storage else list(pictures)
    if unnamed := len(pictures) - len(named):
        found.warnings.append(f"{unnamed} pictures are named in no metadata file and left out.")
    told = any(rows.labels[key] for key in named)
    beside = Counter(suffix for files in found.sidecars.values() for suffix in files)
    if beside:
        words = " and ".join(f"{n} {suffix}" for suffix, n in sorted(beside.items()))
        found.warnings.append(f"{words} files beside pictures are not read, since metadata tells of the pictures.")
    if not told and rows.storage:
        found.warnings.append("dataset.json gives no labels, and folders beside it are storage: there are no classes.")
    made = []
    for key in named:
        labels = rows.labels[key]
        label = next(iter(labels), None) if told else None if rows.storage else classes.get(key)
        two = "two labels" if len(labels) > 1 else None
        made.append(Candidate(pictures[key].shown, pictures[key].read, label, tuple(rows.texts[key]), two))
    return made
