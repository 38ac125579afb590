"""A run folder, each part read when it is asked for."""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from sfumato.checkpoint import load_model, read_json, read_recipe
from sfumato.core.errors import SfumatoError
from sfumato.data import Set
from sfumato.train.request import open_again

log = logging.getLogger("sfumato")


KINDS: dict[str, dict[str, Any]] = {  # of what is read of these files, by key
    "data.json": {
        "name": str,
        "images": int,
        "texts": int,
        "captions": int,
        "side": int,
        "channels": int,
        "fingerprint": str,
    }
    | {"labels": dict, "sizes": dict, "modes": dict, "skipped": list, "warnings": list, "training": dict}
    | {"classes": (list, type(None)), "files": dict, "parts": dict},
    "scores.json": {"scores": dict, "protocol": dict, "records": list},
}


def record_of(path: Path) -> dict[str, Any]:
    """data.json or scores.json without what is not of its own kind, which is said: the rest can be shown."""
    found = read_json(path)
    for key, kind in KINDS.get(path.name, {}).items():
        if key in found and (not isinstance(found[key], kind) or (kind is int and isinstance(found[key], bool))):
            log.warning("%s is damaged: %r cannot be %s; it is left out.", path, key, str(found.pop(key))[:60])
    scores = found.get("scores", {}) if path.name == "scores.json" else {}
    for name in [n for n, value in scores.items() if isinstance(value, bool) or not isinstance(value, int | float)]:
        log.warning("%s is damaged: the score %r is no number; it is left out.", path, name)
        del scores[name]
    skipped = found.get("skipped", [])
    if not all(isinstance(line, dict) for line in skipped):
        found["skipped"] = [line for line in skipped if isinstance(line, dict)]
    return found


@dataclass
class Opened:
    """A run folder, each part read at its first use; `problems` gathers why a part cannot be had."""

    path: Path
    device: Any = "cpu"

    def __post_init__(self) -> None:
        self.problems: list[str] = []

    def record(self, name: str) -> dict[str, Any]:
        with contextlib.suppress(SfumatoError):
            return record_of(self.path / name)
        return {}

    @cached_property
    def recipe(self) -> dict[str, Any]:
        place = self.path / "recipe.json"
        return read_recipe(place if place.is_file() else self.path / "model" / "recipe.json")

    @cached_property
    def system(self) -> Any:
        return load_model(self.path).to(self.device)

    @cached_property
    def source(self) -> Set:
        """The data of the training, opened as it was then, from where they lie now."""
        return open_again(self.path)

    def attempt(self, make: Callable[[], str]) -> str:
        """A section, or the reason why there is none: whatever one of them meets, the page is written."""
        try:
            return make()
        except SfumatoError as error:
            self.problems.append(str(error))
        except Exception as error:
            log.debug("A section of the report could not be made.", exc_info=True)
            self.problems.append(f"A section could not be made: {type(error).__name__}: {error}")
        return ""


def history(run: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl that are steps; a line cut by a death is passed over."""
    return [line for line in events(run) if "step" in line]


def events(run: Path) -> list[dict[str, Any]]:
    path, lines = run / "metrics.jsonl", []
    if path.is_file():
        for text in path.read_text(encoding="utf-8", errors="replace").splitlines():
            with contextlib.suppress(ValueError):
                line = json.loads(text)
                lines += [line] if isinstance(line, dict) else []
    return lines
