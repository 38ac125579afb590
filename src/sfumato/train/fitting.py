"""Whether a training can be what was asked, looked at before its first step: what the system hears and the set says,
what the machine holds, and how a run may go on for longer.
"""

from __future__ import annotations

import logging
import os
from dataclasses import replace
from typing import Any

from torch import nn

from sfumato.core.classes import class_number
from sfumato.core.errors import DataError, UsageError
from sfumato.data import Set
from sfumato.train.request import Request

log = logging.getLogger("sfumato")


def class_names_of(system: Any, source: Set) -> list[str]:
    """What the set calls the labels that the system hears; empty where it hears none."""
    return list(source.labels or ()) if "label" in system.learns else []


def refuse_unfit(recipe: str, system: Any, source: Set) -> None:
    """DataError where a recipe of pictures is handed texts, or one of texts pictures, with what would fit."""
    if "image" in system.entries and "image" not in source.entries:
        raise DataError(
            f"{recipe} learns from pictures, and {source.name} is a set of texts. Take words+autoregressive or "
            "words+masked for it, or a set of pictures for this recipe."
        )
    if "image" not in system.entries and "image" in source.entries:
        said = (
            f"Its captions are one: write {source.origin}{'+' if ':' in str(source.origin) else ':'}captions."
            if source.has_text
            else "It has no captions either."
        )
        raise DataError(f"{recipe} learns from texts, and {source.name} is a set of pictures. {said}")


def check_heard(recipe: str, system: Any, source: Set, request: Request) -> None:
    """DataError where the system will listen to what the set does not say; before anything is trained."""
    keys, labels = system.learns, source.labels
    if "text" in keys and not source.has_text:
        raise DataError(
            f"{recipe} is to read captions, and {source.name} has none. Put a.txt beside a.jpg, add metadata.jsonl, or "
            "leave --text out."
        )
    if "label" not in keys:
        return
    count = int(system.recipe["dials"].get("classes") or 0)
    if labels is None:
        raise DataError(
            f"{recipe} is to hear {count or 'its'} classes, and {source.name} has no labels. Put the pictures into a "
            "folder per class, or leave --classes out."
        )
    if count and len(labels) > count:
        said = f"{source.name} has {len(labels)}"
        raise DataError(f"{recipe} is to hear {count} classes, and {said}. Leave --classes out, and they are counted.")
    if count > len(labels):
        log.warning("%s is built for %d classes, and %s has %d.", recipe, count, source.name, len(labels))
    for word in request.prompts or () if "text" not in keys else ():
        class_number(word, labels)


def refuse_giants(recipe: str, system: nn.Module) -> None:
    """UsageError for a model whose weights alone are more than the machine has memory, before any of it is taken."""
    needed = sum(t.numel() * t.element_size() for t in (*system.parameters(), *system.buffers()))
    try:
        there = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):  # a system that does not tell
        return
    if needed > there:
        raise UsageError(
            f"{recipe} with these dials has {needed:,} bytes of weights, and this machine {there:,} bytes of memory. "
            "Take a smaller --size, --side or dial; `sfumato info` counts beforehand."
        )


def further(request: Request, system: Any, state: Any, steps: int | None, minutes: float | None) -> Request:
    """The request of a run that is trained longer, as `resume` says."""
    asked = replace(request, steps=steps, minutes=minutes)  # refuses both at once, and what is no number
    names = list(system.stages())
    if not names:
        raise UsageError("This run has nothing that learns, so it cannot be trained longer.")
    if state is not None and state[1].get("stage") is None:
        done = 0.0 if minutes is None else float(state[1].get("spent", 0.0)) / 60
        at = int(state[1].get("offset", 0))
        return replace(asked, further=names[-1], further_at=at, minutes=None if minutes is None else minutes + done)
    if (minutes is None) != (request.minutes is None) or (steps is not None and request.steps is None):
        unit = (
            "minutes" if request.minutes is not None else "steps" if request.steps is not None else "the plan's steps"
        )
        raise UsageError(
            f"This run was stopped before its end, which was said in {unit}: resume it, then train it longer."
        )
    if minutes is not None:
        assert request.minutes is not None
        if state is not None and isinstance(state[1].get("minutes"), float | int):
            left = [name for name in names if name not in state[1]["finished"]]
            state[1]["minutes"] += minutes / len(left)
        return replace(request, minutes=request.minutes + minutes)
    assert steps is not None
    assert request.steps is not None
    return replace(request, steps=request.steps + steps)
