"""metadata.jsonl, .csv and .parquet: rows with file_name, and text or label; broken ones are named and left out.

    file_name    a path from the folder of the metadata file; one that leaves it is refused
    text         a caption or a list of captions; also called caption, captions or prompt
    label        a word or a whole number; also called class or cls

Several rows for one file give it several captions; two labels for one file are refused.
"""

from __future__ import annotations

import csv
import io
import json
import posixpath
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from sfumato.core.errors import DataError
from sfumato.data.captions import text_of

NAMES = ("metadata.jsonl", "metadata.csv", "metadata.parquet")
TEXT, LABEL = ("text", "caption", "captions", "prompt"), ("label", "class", "cls")
MISSING_EXTRA = "{what} needs the extra `data`: pip install 'sfumato[data]'."


@dataclass(frozen=True)
class Row:
    """One line of a table: either a file with what is said of it, or a problem."""

    where: str
    file: str = ""
    texts: tuple[str, ...] = ()
    label: str | None = None
    problem: str | None = None


def rows(data: bytes, name: str, folder: str) -> Iterator[Row]:
    """The rows of a metadata file whose folder is `folder`; DataError if it cannot be read at all."""
    kind = name.rpartition(".")[2].lower()
    lines = {"jsonl": _json_lines, "csv": _csv_lines, "parquet": _parquet_lines}[kind](data, name)
    for number, fields in lines:
        where = f"{name}:{number}"
        yield Row(where, problem=fields) if isinstance(fields, str) else _row(fields, where, folder)


def texts_of(value: Any) -> tuple[str, ...]:
    """Captions from a field: a string, a list of strings, or nothing."""
    if isinstance(value, str):
        return (value,) if value.strip() else ()
    if isinstance(value, list | tuple):
        return tuple(text for part in value for text in texts_of(part))
    return ()


def label_of(value: Any) -> str | None:
    """A label from a field; None when there is none. ValueError for what is neither a word nor a whole number."""
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    if isinstance(value, str):
        return value.strip()
    if isinstance(value, int) or (isinstance(value, float) and value.is_integer()):
        return str(int(value))
    raise ValueError("label is neither a word nor a whole number")


def first(fields: dict, keys: Iterable[str]) -> Any:
    return next((fields[key] for key in keys if fields.get(key) is not None), None)


def inside(folder: str, file: str) -> str | None:
    """folder/file in plain form, or None when it leaves the folder or is no relative path."""
    if not file or file.startswith(("/", "\\")) or "\\" in file or "\0" in file or file[1:2] == ":":
        return None
    if ".." in file.split("/"):
        return None
    path = posixpath.normpath(posixpath.join(folder, file))
    return None if path in (".", "..") or path.startswith("../") else path


def _row(fields: dict, where: str, folder: str) -> Row:
    file = fields.get("file_name")
    if not isinstance(file, str):
        return Row(where, problem="no file_name")
    path = inside(folder, file)
    if path is None:
        return Row(where, problem="path leaves the folder")
    try:
        return Row(where, path, texts_of(first(fields, TEXT)), label_of(first(fields, LABEL)))
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


def _csv_lines(data: bytes, name: str) -> Iterator[tuple[int, dict | str]]:
    reader = csv.DictReader(io.StringIO(text_of(data, name), newline=""))
    try:
        if "file_name" not in (reader.fieldnames or ()):
            raise DataError(
                f"{name} has no column file_name, but {', '.join(map(str, reader.fieldnames or ['none']))}."
            )
        for fields in reader:
            number = reader.line_num
            yield number, "line has too many fields" if None in fields else fields
    except csv.Error as error:
        raise DataError(f"{name} is no CSV file: {error}.") from error


def _parquet_lines(data: bytes, name: str) -> Iterator[tuple[int, dict | str]]:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise DataError(MISSING_EXTRA.format(what=name)) from error
    try:
        file = pq.ParquetFile(pa.BufferReader(data))
        columns = [c for c in ("file_name", *TEXT, *LABEL) if c in file.schema_arrow.names]
        table = file.read(columns=columns).to_pylist()
    except (pa.ArrowException, OSError, ValueError) as error:
        raise DataError(f"{name} is no Parquet file: {error}.") from error
    yield from enumerate(table, 1)
