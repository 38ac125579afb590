"""What a run drew, written and told: pictures, texts, or a text beside each picture."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sfumato.cli.console import note, say
from sfumato.cli.runs import write_pictures
from sfumato.core.errors import UsageError

TOLD = 40  # texts that a terminal is shown


def write_drawn(
    drawn: Any,
    entries: tuple[str, ...],
    out: str | None,
    names: Sequence[str],
    facts: list[dict[str, Any]],
    prompts: Sequence[str],
) -> list[str]:
    """The files. Texts: one of lines, .txt, with their facts in .json beside it; nowhere but on the terminal where no
    file is asked for. Pictures: a grid, or a folder. Facts get what was drawn as "text"."""
    texts, pictures = _parts(drawn, entries)
    if texts is not None:
        for fact, text in zip(facts, texts):
            fact["text"] = text
    if pictures is not None:
        said = prompts if texts is None else texts
        return write_pictures(pictures, out or "samples.png", names, facts, said)
    return [] if out is None else _write_texts(texts or [], Path(out), facts)


def tell_drawn(drawn: Any, entries: tuple[str, ...], written: Sequence[str]) -> None:
    texts, pictures = _parts(drawn, entries)
    if pictures is None and texts is not None and not written:
        for text in texts[:TOLD]:
            say(text)
        if len(texts) > TOLD:
            note(f"{len(texts) - TOLD} more were drawn; --out texts.txt keeps all.")
        return
    note(f"Wrote {written[0]}." if pictures is None or len(written) == 1 else f"Wrote {len(written)} pictures.")


def _parts(drawn: Any, entries: tuple[str, ...]) -> tuple[list[str] | None, Any]:
    """(texts or None, pictures or None)."""
    if isinstance(drawn, tuple):
        both = dict(zip(entries, drawn))
        return both["text"], both["image"]
    return (drawn, None) if isinstance(drawn, list) else (None, drawn)


def _write_texts(texts: list[str], place: Path, facts: list[dict[str, Any]]) -> list[str]:
    from sfumato.checkpoint import write_file

    if place.suffix.lower() != ".txt":
        raise UsageError(f"--out {place}: this run draws texts, and they are written to a file that ends in .txt.")
    about = place.with_suffix(".json")
    write_file(place, "".join(f"{text}\n" for text in texts).encode())
    write_file(about, (json.dumps(facts, indent=1, ensure_ascii=False) + "\n").encode())
    return [str(place), str(about)]
