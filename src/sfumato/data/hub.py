"""Sets of the `datasets` library: a directory made by save_to_disk, Parquet files of pictures, and hub:owner/name. All
need the extra `data`.

The picture column is the one of type Image (else image, img, jpg, png); the label that of type ClassLabel (else
label, class, cls); captions come from text, caption, captions or prompt. Pictures are asked for undecoded, so that
our decoder alone opens them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sfumato.core.errors import DataError, ImageError, SfumatoError, UnknownName, UsageError
from sfumato.core.registry import nearest
from sfumato.data.assemble import Candidate, Look, assemble
from sfumato.data.decode import read
from sfumato.data.listing import walk
from sfumato.data.source import BUDGET, Source
from sfumato.data.tables import LABEL, MISSING_EXTRA, TEXT, label_of, texts_of

PICTURE = ("image", "img", "jpg", "png", "picture")


def is_saved(path: Path) -> bool:
    return (path / "dataset_dict.json").is_file() or (
        (path / "state.json").is_file() and (path / "dataset_info.json").is_file()
    )


def _library(what: str) -> Any:
    try:
        import datasets
    except ImportError as error:
        raise DataError(MISSING_EXTRA.format(what=what)) from error
    return datasets


def open_saved(path: Path, look: Look, split: str) -> Source:
    datasets = _library(f"{path}, a `datasets` directory,")
    for entry in walk(path):  # the library would wait for what a pipe has to say
        if entry.problem == "not a regular file":
            raise DataError(f"{path} holds {entry.shown}, which is not a regular file, so it is not read.")
    try:
        loaded = datasets.load_from_disk(str(path))
    except Exception as error:  # whatever a damaged directory makes the library raise
        raise DataError(f"{path} is no readable `datasets` directory: {error}.") from error
    return _open(str(path), datasets, loaded, look, split)


def is_parquet(path: Path) -> bool:
    try:
        with open(path, "rb") as file:
            return file.read(4) == b"PAR1"
    except OSError:
        return False


def is_of_texts(path: Path) -> bool:
    """Whether a Parquet file has a column of texts and none of pictures, as far as can be told."""
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq

        schema = pq.read_schema(path)
    except Exception:  # whatever is missing or damaged; who opens it will say so
        return False
    packed = [field.name for field in schema if pa.types.is_struct(field.type) and field.name in PICTURE]
    pictures = packed or b'"_type": "Image"' in (schema.metadata or {}).get(b"huggingface", b"")
    return not pictures and bool({name.strip().casefold() for name in schema.names} & set(TEXT))


def open_parquet(name: str, paths: list[Path], look: Look, split: str) -> Source:
    """Parquet files as the hub has them: a column of pictures, {"bytes", "path"}, and what is said of them."""
    datasets = _library(f"{name}, a Parquet file of pictures,")
    if (total := sum(path.stat().st_size for path in paths)) > BUDGET:
        raise DataError(f"{name} has {total:,} bytes, and at most {BUDGET:,} are read at once. Name some of its files.")
    try:
        import pyarrow.parquet as pq

        loaded = datasets.concatenate_datasets([datasets.Dataset(pq.read_table(path)) for path in paths])
    except Exception as error:  # whatever damage makes two libraries raise
        raise DataError(f"{name} is no readable Parquet file: {error}.") from error
    return _open(name, datasets, loaded, look, split)


def open_hub(query: str, look: Look, split: str) -> Source:
    """owner/name, owner/name:config, owner/name@revision. Uses the network, as the library does."""
    name, _, config = query.partition(":")
    name, _, revision = name.partition("@")
    if name.count("/") != 1 or not all(name.split("/")):
        raise UsageError(f"Write hub:owner/name, not 'hub:{query}'.")
    datasets = _library(f"hub:{query}")
    try:
        loaded = datasets.load_dataset(name, config or None, revision=revision or None)
    except Exception as error:  # network, access and format errors of several libraries
        raise DataError(f"hub:{query} cannot be loaded: {type(error).__name__}: {error}") from error
    return _open(f"hub:{query}", datasets, loaded, look, split)


def _open(name: str, datasets: Any, loaded: Any, look: Look, split: str) -> Source:
    table = _part(name, datasets, loaded, split)
    columns = dict(table.features)
    image = _column(columns, datasets.Image, PICTURE)
    if image is not None and not isinstance(columns[image], datasets.Image) and _is_struct(columns[image]):
        table = table.cast_column(image, datasets.Image(decode=False))
        columns = dict(table.features)
    if image is None or not isinstance(columns[image], datasets.Image):
        raise DataError(f"{name} has no column of pictures among {', '.join(columns)}.")
    label = _column(columns, datasets.ClassLabel, LABEL)
    text = next((key for key in TEXT if key in columns), None)
    pictures = table.select_columns([image]).cast_column(image, datasets.Image(decode=False))
    said = list(table[text]) if text else [None] * len(table)
    classes = list(table[label]) if label else [None] * len(table)
    names = list(columns[label].names) if label and isinstance(columns[label], datasets.ClassLabel) else None
    candidates = []
    for i in range(len(table)):
        problem, word = None, None
        try:
            word = _word(classes[i], names)
        except ValueError as error:
            problem = str(error)
        candidates.append(Candidate(f"{image}[{i}]", _reader(pictures, image, i), word, texts_of(said[i]), problem))
    return assemble(name, candidates, [], [], look, settings=["datasets", split], label_names=names)


def _word(value: Any, names: list[str] | None) -> str | None:
    """A label by its word; −1, with which `datasets` marks unlabelled rows, is none."""
    if names is None:
        return label_of(value)
    return names[value] if isinstance(value, int) and 0 <= value < len(names) else None


def _part(name: str, datasets: Any, loaded: Any, split: str) -> Any:
    if not isinstance(loaded, datasets.DatasetDict):
        if split not in ("train", "all"):
            raise UnknownName(f"{name} has no part called {split!r}; it is one table.")
        return loaded
    if split == "all":
        return datasets.concatenate_datasets(list(loaded.values()))
    if split not in loaded:
        raise UnknownName(f"{name} has no part called {split!r}. {nearest(split, loaded)}")
    return loaded[split]


def _column(columns: dict[str, Any], kind: type, names: tuple[str, ...]) -> str | None:
    typed = [key for key, feature in columns.items() if isinstance(feature, kind)]
    return next(iter([*typed, *(key for key in names if key in columns)]), None)


def _is_struct(feature: Any) -> bool:
    """{"bytes", "path"}: a picture that nobody has called one."""
    fields = getattr(feature, "keys", None)
    return fields is not None and {"bytes"} <= set(fields()) <= {"bytes", "path"}


def _reader(pictures: Any, column: str, i: int):
    def bytes_of(limit: int) -> bytes:
        try:
            cell = pictures[i][column]
        except SfumatoError:
            raise
        except Exception as error:  # whatever a damaged Arrow file makes the library raise
            raise ImageError(f"Row {i} cannot be read: {error}.", "cannot be read") from error
        if cell is None:
            raise ImageError(f"Row {i} has no picture.", "empty")
        data = cell["bytes"] if cell["bytes"] is not None else read(cell["path"], limit=limit)
        if len(data) > limit:
            raise ImageError(f"Row {i} has {len(data)} bytes.", "too large")
        return data

    return bytes_of
