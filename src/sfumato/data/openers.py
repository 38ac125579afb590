"""The one door: what a user writes for DATA → a Source.

emoji  scenes  digits     embedded sets, with a query after a colon: emoji:food+3d, scenes:objects=1-3+zh
hub:owner/name            a data set of the Hugging Face hub (hub:owner/name:config, hub:owner/name@revision)
a path                    a folder of pictures, an MNIST-like folder, the full emoji folder, a `datasets` directory,
                          a zip or tar archive, a pattern of webdataset tars (shard-{000..009}.tar, shards/*.tar), or
                          Parquet files as the hub has them

A path that is written as one (./digits, digits/, /data/digits, a Path) is one, whatever embedded set is called so. A
bare name of an embedded set is that set, and where a folder here has the same name too, a warning says so.
"""

from __future__ import annotations

from pathlib import Path

from sfumato.core.errors import DataError, UnknownName, UsageError
from sfumato.core.registry import nearest
from sfumato.data import archives, digits, emoji, folder, hub
from sfumato.data.assemble import Look
from sfumato.data.decode import background_color
from sfumato.data.scenes.source import open_scenes
from sfumato.data.source import Source

_SETS = {
    "emoji": "emoji in three styles at 32 px, with names in en, zh, de, pt, th (Twemoji, Fluent, Noto; see NOTICE)",
    "scenes": "coloured shapes drawn to order at any side, with captions in en and zh and an exact judge",
    "digits": "1,797 handwritten digits of 8×8 (UCI, CC BY 4.0)",
}


def names() -> dict[str, str]:
    """The embedded sets, one line each."""
    return dict(_SETS)


def open_data(
    data: str | Path,
    *,
    side: int | None = None,
    channels: int = 3,
    background: str | tuple[int, ...] = "white",
    split: str = "train",
    allow_bad: float = 0.05,
    language: str = "en",
) -> Source:
    """Opens a set: every picture is checked, resized and cropped to side × side (fit.py says how, and what None means).

    `background` shows through transparent pictures. Bad files are skipped up to the part `allow_bad`; else DataError.
    `split` is train, test, or what the set names; user data without parts of its own is train as a whole.
    """
    if channels not in (1, 3):
        raise UsageError(f"Pictures have 1 channel (grey) or 3 (colour), not {channels}.")
    if side is not None and not 1 <= side <= 4096:
        raise UsageError(f"The side of a picture is 1 to 4096 pixels, not {side}.")
    if not 0 <= allow_bad <= 1:
        raise UsageError(f"allow_bad is a part, from 0 to 1, not {allow_bad}.")
    background_color(background)
    text = str(data)
    name, _, query = text.partition(":")
    if isinstance(data, str) and name in _SETS:
        source = _embedded(text, name, query, side, channels, background, split, language)
        source.origin = data
        if Path(name).is_dir():
            source.report["warnings"].append(
                f"This is the embedded set {name}; a folder of that name is here too. Write ./{name} for the folder."
            )
        return source
    look = Look(side, channels, background, allow_bad)
    from_hub = isinstance(data, str) and name == "hub"
    source = hub.open_hub(query, look, split) if from_hub else _open_path(text, look, split, language)
    source.origin = data
    return source


def _embedded(
    text: str,
    name: str,
    query: str,
    side: int | None,
    channels: int,
    background: str | tuple[int, ...],
    split: str,
    language: str,
) -> Source:
    if name == "emoji":
        return emoji.open_emoji(emoji.embedded_table(), query, side, channels, background, split, language)
    if name == "scenes":
        return open_scenes(query, side, channels, split, language)
    if query:
        raise UsageError(f"digits has no parts; write digits, not {text!r}.")
    return digits.open_digits(side, channels, split)


def _open_path(text: str, look: Look, split: str, language: str) -> Source:
    path = Path(text).expanduser()
    try:
        path.is_dir()
    except OSError as error:  # a name that is too long, a folder that may not be entered
        raise DataError(f"{text[:200]} cannot be opened: {error.strerror}.") from error
    if path.is_dir():
        if emoji.is_emoji_folder(path):
            table = emoji.emoji_folder(path.resolve())
            return emoji.open_emoji(table, "", look.side, look.channels, look.background, split, language)
        if digits.is_idx_folder(path):
            return digits.open_idx(path, look.side, look.channels, split)
        if hub.is_saved(path):
            return hub.open_saved(path, look, split)
        return folder.open_folder(path, look, split)
    before, colon, query = text.rpartition(":")
    if colon and emoji.is_emoji_folder(Path(before).expanduser()):
        table = emoji.emoji_folder(Path(before).expanduser().resolve())
        return emoji.open_emoji(table, query, look.side, look.channels, look.background, split, language)
    shards = archives.expand(text)
    if not shards and path.exists():
        raise DataError(f"{path} is neither a folder nor a regular file, so it is not read.")
    if shards and all(hub.is_parquet(shard) for shard in shards):
        return hub.open_parquet(text, shards, look, split)
    if shards:
        return archives.open_archives(text, shards, look, split)
    raise UnknownName(_not_found(text, path))


def _not_found(text: str, path: Path) -> str:
    try:
        beside = [str(path.parent / p.name) for p in path.parent.iterdir()] if path.parent.is_dir() else []
    except OSError:
        beside = []
    close = nearest(text, [*_SETS, *beside])
    answer = close if close.startswith("Did") else f"Embedded sets: {', '.join(_SETS)}."
    return f"There is no data set, folder or archive called {text!r}. {answer}"
