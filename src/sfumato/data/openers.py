"""The one door: what a user writes for DATA → a Source, or Texts.

emoji  scenes  digits     embedded sets, with a query after a colon: emoji:food+3d, scenes:objects=1-3+zh
hub:owner/name            a data set of the Hugging Face hub (hub:owner/name:config, hub:owner/name@revision)
a path                    a folder of pictures, an MNIST-like folder, the full emoji folder, a `datasets` directory,
                          a zip or tar archive, a pattern of webdataset tars (shard-{000..009}.tar, shards/*.tar), or
                          Parquet files as the hub has them
a path of texts           .txt, .jsonl, .csv, .tsv, .parquet, or a folder of them; PATH:window=256 cuts them anew
any set:captions          what it says of its pictures, as a set of texts: photos/:captions, emoji:food+captions

A path that is written as one (./digits, digits/, /data/digits, a Path) is one, whatever embedded set is called so. A
bare name of an embedded set is that set, and where a folder here has the same name too, a warning says so.
"""

from __future__ import annotations

from pathlib import Path

from sfumato.core.errors import DataError, UnknownName, UsageError
from sfumato.core.registry import nearest
from sfumato.data import archives, corpus, digits, emoji, folder, hub
from sfumato.data.assemble import Look
from sfumato.data.decode import background_color
from sfumato.data.scenes.source import open_scenes
from sfumato.data.source import Source
from sfumato.data.texts import Texts, captions_of

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
) -> Source | Texts:
    """Opens a set: every picture is checked, resized and cropped to side × side (fit.py says how, and what None means).

    `background` shows through transparent pictures. Bad files are skipped up to the part `allow_bad`; else DataError.
    `split` is train, test, or what the set names; user data without parts of its own is train as a whole. What only
    pictures have is of no use to a set of texts, and a warning says so.
    """
    if channels not in (1, 3):
        raise UsageError(f"Pictures have 1 channel (grey) or 3 (colour), not {channels}.")
    if side is not None and not 1 <= side <= 4096:
        raise UsageError(f"The side of a picture is 1 to 4096 pixels, not {side}.")
    if not 0 <= allow_bad <= 1:
        raise UsageError(f"allow_bad is a part, from 0 to 1, not {allow_bad}.")
    color = background_color(background)
    text, words = _asked(str(data))
    look = Look(side, channels, background, allow_bad, words)
    name, _, query = text.partition(":")
    if isinstance(data, str) and name in _SETS:
        source: Source | Texts = _embedded(text, name, query, look, split, language)
        if Path(name).is_dir():
            source.report["warnings"].append(
                f"This is the embedded set {name}; a folder of that name is here too. Write ./{name} for the folder."
            )
    elif isinstance(data, str) and name == "hub":
        source = hub.open_hub(query, look, split)
    else:
        source = _open_path(text, look, split, language)
    if words and isinstance(source, Source):
        source = captions_of(source)
    if isinstance(source, Texts) and not words and (side, channels, color) != (None, 3, (255, 255, 255)):
        source.report["warnings"].append("A set of texts has no pictures: side, channels and background do nothing.")
    source.origin = data
    return source


def _asked(text: str) -> tuple[str, bool]:
    """(DATA without the term "captions", whether it was there)."""
    before, _, query = text.rpartition(":")
    terms = query.split("+")
    if not before or "captions" not in terms or _exists(text):
        return text, False
    terms = [term for term in terms if term != "captions"]
    return before + ":" * bool(terms) + "+".join(terms), True


def _exists(text: str) -> bool:
    try:
        return Path(text).expanduser().exists()
    except OSError as error:  # a name that is too long, a folder that may not be entered
        raise DataError(f"{text[:200]} cannot be opened: {error.strerror}.") from error


def _embedded(text: str, name: str, query: str, look: Look, split: str, language: str) -> Source:
    if name == "emoji":
        return _emoji(emoji.embedded_table(), query, look, split, language)
    if name == "scenes":
        return open_scenes(query, look.side, look.channels, split, language)
    if query:
        raise UsageError(f"digits has no parts; write digits, not {text!r}.")
    return digits.open_digits(look.side, look.channels, split)


def _emoji(table: emoji.Table, query: str, look: Look, split: str, language: str) -> Source:
    return emoji.open_emoji(table, query, look.side, look.channels, look.background, split, language)


def _open_path(text: str, look: Look, split: str, language: str) -> Source | Texts:
    path, query = Path(text).expanduser(), ""
    before, _, after = text.rpartition(":")
    if not _exists(text) and before and _exists(before):
        path, query = Path(before).expanduser(), after
    if path.is_dir():
        if emoji.is_emoji_folder(path):
            return _emoji(emoji.emoji_folder(path.resolve()), query, look, split, language)
        if not query and digits.is_idx_folder(path):
            return digits.open_idx(path, look.side, look.channels, split)
        if not query and hub.is_saved(path):
            return hub.open_saved(path, look, split)
        return folder.open_folder(path, look, split, query)
    shards = archives.expand(str(path) if query else text)
    if not shards and path.exists():
        raise DataError(f"{path} is neither a folder nor a regular file, so it is not read.")
    if shards and all(map(corpus.is_text, shards)):
        return corpus.open_files(str(path), shards, look, split, query)
    if query:
        raise UnknownName(_not_found(text, Path(text)))
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
