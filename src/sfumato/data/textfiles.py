"""A file of text → its rows, one at a time, whatever its size.

    .txt             a row a line (ended by \\n or \\r\\n)
    .jsonl           an object a line; of its column `text` each text is a row
    .csv, .tsv       a line of names, then the rows; the delimiter is that by which the names have a column of texts
    .parquet         the same, by the extra `data`
    .gz              of any of these but Parquet

Columns are called as in tables.py, in any case. A text of more than LONGEST characters is cut into windows
(windows.py); with a `window` all rows of a file are one stream that is cut, and labels are left aside. Marks, encodings
and cleaning are those of captions (captions.py). A row in other bytes, or with zeros, is a problem; a file that breaks
off is a DataError.

A row of a plain .txt in UTF-8 says where it lies, so that it can be read there again; others are gone through once.
"""

from __future__ import annotations

import codecs
import csv
import gzip
import hashlib
import io
import json
import os
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from sfumato.core.errors import DataError
from sfumato.data.captions import LONGEST, encoding_of
from sfumato.data.decode import regular
from sfumato.data.tables import LABEL, MISSING_EXTRA, NAMES, TEXT, delimiter, first, folded, label_of, several, texts_of
from sfumato.data.texts import NoTexts
from sfumato.data.windows import Cutter

KINDS = (".txt", ".jsonl", ".csv", ".tsv", ".parquet")
ENDS = (*KINDS, *(kind + ".gz" for kind in KINDS[:-1]))
PIECE = 2**16  # bytes that are read at once
LONGEST_LINE = 16 * 2**20  # characters of a line of a table
RATIO, SMALL = 100, 16 * 2**20  # times that a .gz may have shrunk, if it is longer than so many bytes
NO_TEXT, ZEROS = "not UTF-8 text", "zero bytes, so no text"
_MARKS = {"utf-8-sig": 3, "utf-8": 0}  # bytes before the text, in the encodings that are read where they lie


class Row(NamedTuple):
    """A text, or why there is none. An empty text is a row that says nothing."""

    number: int
    text: str = ""
    label: str | None = None
    problem: str | None = None
    span: tuple[int, int] | None = None  # (first byte, bytes)
    several: bool = False  # labels, so that there is none


def kind_of(path: str) -> str | None:
    """Which of KINDS a file is by its name; None for others, and for what is always said of pictures."""
    name = path.rpartition("/")[2].lower()
    kind = os.path.splitext(name.removesuffix(".gz"))[1]
    return kind if name.endswith(ENDS) and name not in NAMES else None


@dataclass
class TextFile:
    """`shown` in reports; `homes` are where it may lie, links followed."""

    path: Path
    shown: str
    homes: Sequence[Path] = ()
    window: int | None = None
    raw: Any = field(default_factory=hashlib.sha256)  # of its bytes as they stand, where it is read there again
    columns: dict[str, None] = field(default_factory=dict)  # that were met, in order
    good: int = 0  # rows that say something, as they stand: before they are cut

    @property
    def most(self) -> int:
        """Characters of a row."""
        return self.window or LONGEST

    @property
    def in_place(self) -> bool:
        """Whether its rows say where they lie."""
        if kind_of(str(self.path)) != ".txt" or self.path.name.lower().endswith(".gz"):
            return False
        with os.fdopen(regular(self.path, self.homes), "rb") as file:
            return encoding_of(file.read(4)) in _MARKS

    def rows(self) -> Iterator[Row]:
        """Every row; ImageError where the file may not be opened, DataError where it breaks off."""
        kind = kind_of(str(self.path))
        with os.fdopen(regular(self.path, self.homes), "rb") as file:
            try:
                if kind == ".parquet":
                    yield from self._cut(self._parquet(file))
                else:
                    yield from self._lines_of(file, kind)
            except (OSError, EOFError, zlib.error, csv.Error, UnicodeError) as error:
                raise DataError(f"{self.shown} is damaged or ends too early ({error}).") from error

    def _lines_of(self, file: BinaryIO, kind: str | None) -> Iterator[Row]:
        packed = self.path.name.lower().endswith(".gz")
        opened: Any = io.BufferedReader(_Unpacked(file, self.shown)) if packed else file
        encoding = encoding_of(opened.peek(4)[:4])
        if kind == ".txt":
            yield from self._plain(opened, encoding, in_place=not packed and encoding in _MARKS)
        else:
            text = io.TextIOWrapper(opened, encoding, errors="surrogateescape", newline="")
            read = self._json if kind == ".jsonl" else self._csv
            yield from self._cut(read(_whole(text, self.shown)))

    # ---- lines ----

    def _plain(self, file: BinaryIO, encoding: str, in_place: bool) -> Iterator[Row]:
        cutter, decoder, bad = Cutter(self.most), codecs.getincrementaldecoder("utf-8")(), 0
        at = _MARKS.get(encoding, 0)
        for number, piece, ends in self._pieces(file, encoding, in_place):
            begins = at - len(decoder.getstate()[0])
            at += len(piece)
            if number == bad:  # the rest of a line that is left out
                continue
            try:
                text, problem = decoder.decode(piece, ends), None
            except UnicodeDecodeError:
                text, problem = "", NO_TEXT
            problem = problem or (ZEROS if "\0" in text else None)
            if problem is None:
                self.good += ends and not text.isspace()
                cutter.add(text, begins)
            else:
                decoder.reset()
                bad = number
            done = problem is not None or (ends and self.window is None)
            if cutter.full or (done and (problem is None or cutter.length)):
                yield from self._out(cutter, number, done, in_place)
            if problem is not None:
                yield Row(number, problem=problem)
        yield from self._out(cutter, number=0, last=True, in_place=in_place) if cutter.length else ()

    def _out(self, cutter: Cutter, number: int, last: bool, in_place: bool) -> Iterator[Row]:
        for start, size, text in cutter.cut(last):
            if text or self.window is None:
                yield Row(number, text, span=(start, size) if in_place else None)

    def _pieces(self, file: BinaryIO, encoding: str, in_place: bool) -> Iterator[tuple[int, bytes, bool]]:
        """(number of the line, bytes of UTF-8, whether it ends with them); long lines come in pieces."""
        decoded = None if encoding in _MARKS else io.TextIOWrapper(file, encoding, newline="\n")
        if decoded is None:
            self.raw.update(file.read(_MARKS[encoding]))
        number, ends = 1, True
        while piece := file.readline(PIECE) if decoded is None else decoded.readline(PIECE).encode():
            if in_place:
                self.raw.update(piece)
            ends = piece.endswith(b"\n")
            yield number, piece, ends
            number += ends
        if not ends:
            yield number, b"", True

    # ---- tables ----

    def _json(self, lines: Iterable[str]) -> Iterator[Row]:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            if problem := _bytes_problem(line):
                yield Row(number, problem=problem)
                continue
            try:
                fields = json.loads(line)
            except (ValueError, RecursionError):
                yield Row(number, problem="line is not JSON")
                continue
            yield from (
                self._said(number, fields)
                if isinstance(fields, dict)
                else [Row(number, problem="line is no JSON object")]
            )

    def _csv(self, lines: Iterator[str]) -> Iterator[Row]:
        header = next(lines, "").removeprefix("\ufeff")
        mark = delimiter(header, TEXT)
        names = next(csv.reader([header], delimiter=mark), [])
        self._needs_a_column(names)
        reader = csv.reader(lines, delimiter=mark)
        for cells in reader:
            number = reader.line_num + 1
            if problem := _bytes_problem("".join(cells)):
                yield Row(number, problem=problem)
            elif len(cells) > len(names):
                yield Row(number, problem="line has too many fields")
            elif cells:
                yield from self._said(number, dict(zip(names, cells)))

    def _parquet(self, file: BinaryIO) -> Iterator[Row]:
        try:
            import pyarrow as pa
            import pyarrow.parquet as pq
        except ImportError as error:
            raise DataError(MISSING_EXTRA.format(what=self.shown)) from error
        try:
            table = pq.ParquetFile(file)
            schema = table.schema_arrow
            self._needs_a_column(schema.names)
            columns = [name for name in schema.names if name.strip().casefold() in (*TEXT, *LABEL)]
            classes, number = _classes(schema.metadata), 0
            for batch in table.iter_batches(1024, columns=columns):
                for fields in batch.to_pylist():
                    number += 1
                    yield from self._said(number, {name: _named(fields[name], classes.get(name)) for name in fields})
        except (pa.ArrowException, ValueError) as error:
            raise DataError(f"{self.shown} is no Parquet file that is readable: {str(error)[:200]}.") from error

    def _needs_a_column(self, names: Sequence[str]) -> None:
        self.columns |= dict.fromkeys(map(str, names))
        if not {name.strip().casefold() for name in self.columns} & set(TEXT):
            found = ", ".join(list(self.columns)[:20]) or "none"
            raise NoTexts(f"{self.shown} has no column of texts ({', '.join(TEXT)}), but {found[:300]}.")

    def _said(self, number: int, fields: dict) -> Iterator[Row]:
        """A row for each text; an empty one where there is none."""
        if len(self.columns) < 100:
            self.columns |= dict.fromkeys(map(str, fields))
        fields = folded(fields)
        said = first(fields, LABEL)
        try:
            label = label_of(said)
        except ValueError as error:
            yield Row(number, problem=str(error))
            return
        for text in texts_of(first(fields, TEXT)) or ("",):
            text = text.encode("utf-8", "replace").decode()  # JSON may hold halves of pairs
            yield Row(number, text, label, ZEROS if "\0" in text else None, several=several(said))

    def _cut(self, rows: Iterable[Row]) -> Iterator[Row]:
        """Windows of what a table says."""
        cutter, none = Cutter(self.most), True
        for row in rows:
            none &= not row.text
            if row.problem is not None:
                yield row
                continue
            self.good += bool(row.text.strip())
            cutter.add(row.text + "\n" * bool(self.window), 0)
            if self.window is None or cutter.full:
                for _, _, text in cutter.cut(last=self.window is None):
                    yield row._replace(text=text, label=None if self.window else row.label)
        if self.window and cutter.length:
            yield from (Row(0, text) for _, _, text in cutter.cut(last=True) if text)
        if none and self.columns:
            self._needs_a_column(())


class _Unpacked(io.RawIOBase):
    """What a .gz holds; DataError where few bytes become more than RATIO times as many."""

    def __init__(self, packed: BinaryIO, shown: str):
        self._packed, self._shown, self._size = packed, shown, 0
        self._file = gzip.GzipFile(fileobj=packed)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._file.read(len(buffer))
        self._size += len(data)
        if self._size > max(SMALL, RATIO * self._packed.tell()):
            raise DataError(f"{self._shown} shrank more than {RATIO} times, as no text does. Unpack it, if it is one.")
        buffer[: len(data)] = data
        return len(data)


def _whole(file: io.TextIOWrapper, shown: str) -> Iterator[str]:
    while line := file.readline(LONGEST_LINE):
        if len(line) == LONGEST_LINE:
            raise DataError(f"{shown} has a line of more than {LONGEST_LINE:,} characters; it is no table of texts.")
        yield line


def _bytes_problem(text: str) -> str | None:
    if "\0" in text:
        return ZEROS
    if text.isascii():
        return None
    return NO_TEXT if any("\udc80" <= c <= "\udcff" for c in text) else None


def _classes(metadata: dict[bytes, bytes] | None) -> dict[str, list[str]]:
    """The names of classes that the `datasets` library writes into a Parquet file, by column."""
    try:
        features = json.loads((metadata or {})[b"huggingface"])["info"]["features"]
        return {name: feature["names"] for name, feature in features.items() if "names" in feature}
    except (KeyError, TypeError, ValueError):
        return {}


def _named(value: Any, names: list[str] | None) -> Any:
    if names is None or not isinstance(value, int):
        return value
    return names[value] if 0 <= value < len(names) else None
