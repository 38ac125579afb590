"""Tables of what is said of pictures: metadata.jsonl, .csv, .tsv, .json, .parquet, and StyleGAN's dataset.json.

    file       a path from the folder of the table; one that leaves it is refused. The column is called file_name, or
               one of FILE, in any case; backslashes are read as slashes, as Windows writes them
    text       a caption or a list of captions; also called caption, captions or prompt. Numbers are captions too
    label      a word or a whole number; also called class or cls. Of a list of one, that one; a list of several labels
               is none that a class could be, and is left aside

    .csv       the delimiter (comma, semicolon, tab, bar) is that by which the header has a column of files
    .json      a list of rows; {file: row}; or {"labels": [[file, label], …]}, whose label may be a number or a one-hot
               row, or {"labels": null}, which says that folders are storage and no classes

Several rows for one file give it several captions; two labels for one file are refused. A broken row is named and left
out. A table of another name is read as metadata if a column of it names pictures of the set.
"""

from __future__ import annotations

import csv
import io
import json
import posixpath
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from sfumato.core.errors import DataError
from sfumato.data.captions import text_of

STYLEGAN = "dataset.json"
NAMES = (*(f"metadata.{kind}" for kind in ("jsonl", "csv", "tsv", "json", "parquet")), STYLEGAN)
KINDS = (".csv", ".tsv", ".jsonl", ".json", ".parquet")
FILE = ("file_name", "filename", "file", "image", "image_path", "image_name", "img", "path", "filepath", "file_path")
TEXT, LABEL = ("text", "caption", "captions", "prompt"), ("label", "class", "cls")
WANTED = f"neither captions ({', '.join(TEXT)}) nor a label ({', '.join(LABEL)})"
MISSING_EXTRA = "{what} needs the extra `data`: pip install 'sfumato[data]'."


@dataclass(frozen=True)
class Row:
    """One line of a table: either a file with what is said of it, or a problem."""

    where: str
    file: str = ""
    texts: tuple[str, ...] = ()
    label: str | None = None
    problem: str | None = None
    several: bool = False  # labels, so that there is none


def rows(data: bytes, name: str, folder: str) -> Iterator[Row]:
    """The rows of a metadata file whose folder is `folder`; DataError if it cannot be read at all."""
    kind = name.rpartition(".")[2].lower()
    readers = {
        "jsonl": _json_lines,
        "csv": _csv_lines,
        "tsv": _csv_lines,
        "json": _json_rows,
        "parquet": _parquet_lines,
    }
    lines = readers[kind](data, name)
    for number, fields in lines:
        where = f"{name}:{number}"
        yield Row(where, problem=fields) if isinstance(fields, str) else _row(fields, where, folder)


def texts_of(value: Any) -> tuple[str, ...]:
    """Captions from a field: a string, a number, a list of them, or nothing."""
    if isinstance(value, str):
        return (value,) if value.strip() else ()
    if isinstance(value, int | float) and not isinstance(value, bool):
        return (str(value),)
    if isinstance(value, list | tuple):
        return tuple(text for part in value for text in texts_of(part))
    return ()


def label_of(value: Any) -> str | None:
    """A label from a field; None when there is none, or several. ValueError for what is neither a word nor a whole
    number."""
    if isinstance(value, list | tuple):
        return label_of(value[0]) if len(value) == 1 else None
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    if isinstance(value, str):
        return unicodedata.normalize("NFC", value.strip())
    if isinstance(value, int) or (isinstance(value, float) and value.is_integer()):
        return str(int(value))
    raise ValueError("label is neither a word nor a whole number")


def several(value: Any) -> bool:
    return isinstance(value, list | tuple) and len(value) > 1


def first(fields: dict, keys: Iterable[str]) -> Any:
    return next((fields[key] for key in keys if fields.get(key) is not None), None)


def folded(fields: dict) -> dict[str, Any]:
    """The fields by their names in small letters; of two that differ in nothing else the later."""
    return {str(key).strip().casefold(): value for key, value in fields.items()}


def inside(folder: str, file: str) -> str | None:
    """folder/file in plain form, or None when it leaves the folder or is no relative path."""
    file = unicodedata.normalize("NFC", file.replace("\\", "/"))
    if not file or file.startswith("/") or "\0" in file or file[1:2] == ":":
        return None
    if ".." in file.split("/"):
        return None
    path = posixpath.normpath(posixpath.join(folder, file))
    return None if path in (".", "..") or path.startswith("../") else path


def _row(fields: dict, where: str, folder: str) -> Row:
    fields = folded(fields)
    file = first(fields, FILE)
    if not isinstance(file, str):
        return Row(where, problem="no file_name")
    path = inside(folder, file)
    if path is None:
        return Row(where, problem="path leaves the folder")
    label = first(fields, LABEL)
    try:
        return Row(where, path, texts_of(first(fields, TEXT)), label_of(label), several=several(label))
    except ValueError as error:
        return Row(where, problem=str(error))


def _json_lines(data: bytes, name: str) -> Iterator[tuple[int, dict | str]]:
    for number, line in enumerate(text_of(data, name).split("\n"), 1):
        if line.strip():
            try:
                fields = json.loads(line)
                yield number, fields if isinstance(fields, dict) else "line is no JSON object"
            except (ValueError, RecursionError):
                yield number, "line is not JSON"


def _json_rows(data: bytes, name: str) -> Iterator[tuple[int, dict | str]]:
    try:
        value = json.loads(text_of(data, name))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{name} is not JSON: {str(error)[:200]}.") from error
    if isinstance(value, dict) and "labels" in value and (value["labels"] is None or _pairs(value["labels"])):
        value = [{"file_name": file, "label": _hot(label)} for file, label in value["labels"] or ()]
    elif isinstance(value, dict):
        value = [{"file_name": file, **_said(row)} for file, row in value.items()]
    if not isinstance(value, list):
        raise DataError(f"{name} holds no list of rows.")
    for number, fields in enumerate(value, 1):
        yield number, fields if isinstance(fields, dict) else "row is no JSON object"


def _said(row: Any) -> dict[str, Any]:
    """What a file is mapped to: a row, a caption, or the number of a class."""
    if isinstance(row, dict):
        return row
    return {"label" if isinstance(row, int) else "text": row}


def _pairs(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(pair, list) and len(pair) == 2 for pair in value)


def _hot(label: Any) -> Any:
    """A one-hot row as the number of its one; any other label as it stands."""
    if several(label) and sorted(label, key=bool)[-1:] == [1] and sum(map(bool, label)) == 1:
        return label.index(1)
    return label


def _csv_lines(data: bytes, name: str) -> Iterator[tuple[int, dict | str]]:
    text = text_of(data, name)
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter(text.partition("\n")[0], FILE))
    try:
        if not {str(column).strip().casefold() for column in reader.fieldnames or ()} & set(FILE):
            raise DataError(
                f"{name} has no column file_name, but {', '.join(map(str, reader.fieldnames or ['none']))}."
            )
        for fields in reader:
            number = reader.line_num
            yield number, "line has too many fields" if None in fields else fields
    except csv.Error as error:
        raise DataError(f"{name} is no CSV file: {error}.") from error


def delimiter(header: str, wanted: Iterable[str]) -> str:
    """The mark by which a header has one of the columns `wanted`."""
    columns = {mark: [cell.strip().strip('"').casefold() for cell in header.split(mark)] for mark in ",;\t|"}
    return next((mark for mark, cells in columns.items() if set(cells) & set(wanted)), ",")


def _parquet_lines(data: bytes, name: str) -> Iterator[tuple[int, dict | str]]:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise DataError(MISSING_EXTRA.format(what=name)) from error
    try:
        file = pq.ParquetFile(pa.BufferReader(data))
        columns = [c for c in file.schema_arrow.names if c.strip().casefold() in (*FILE, *TEXT, *LABEL)]
        table = file.read(columns=columns).to_pylist()
    except (pa.ArrowException, OSError, ValueError) as error:
        raise DataError(f"{name} is no Parquet file: {error}.") from error
    yield from enumerate(table, 1)
