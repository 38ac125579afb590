"""What a training was asked to do, as train.json keeps it, so that `resume` needs the run folder and nothing else.

The data are kept as they were typed and as an absolute path. They are looked for where resume is typed, then at the
absolute path, then from the run folder's own parent; the fingerprint decides which of these is the set (`open_again`).
"""

from __future__ import annotations

import math
import types
import typing
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields, replace
from pathlib import Path
from typing import Any

from sfumato import recipes
from sfumato.checkpoint import read_json
from sfumato.checkpoint.disk import check_schema
from sfumato.core.errors import DataError, SfumatoError, UnknownName, UsageError, WeightsError
from sfumato.data import Set, names, open_data

SCHEMA = 1  # of train.json; keys that came later may be absent
NAMED = 3  # pictures that a message names
MOST_FILES = 20_000  # whose hashes data.json keeps, so that a change can be told


@dataclass(frozen=True)
class Request:
    """What was asked for, as train.json keeps it. `sample_every` and `save_every` count steps; None: by progress, and
    every ten minutes; 0: never before the end."""

    recipe: str
    data: str
    dials: dict[str, Any]
    size: str = "s"
    side: int | None = None
    channels: int = 3
    steps: int | None = None
    minutes: float | None = None
    batch: int | None = None
    seed: int = 0
    precision: str = "fp32"
    given: dict[str, str] | None = None  # a stage or a part → the run that it is taken from
    sample_every: int | None = None
    save_every: int | None = None
    data_at: str | None = None  # `data` as an absolute path, where it is one
    background: str = "white"
    allow_bad: float = 0.05
    device: str | None = None
    accumulate: int | None = None
    held_out: float | None = None  # a part of the set; None: by the rule of held.py
    patience: int | None = None  # looks at the held-out part without a better loss that end a stage
    prompts: list[str] | None = None  # captions or classes of the sample grids
    tune: bool = False  # whether what is given is where training begins
    begun: list[str] | None = None  # the stages that began with all that another run's had
    further: str | None = None  # the stage that is trained on, after all were finished
    further_at: int | None = None  # the run's step at which that begins

    def __post_init__(self) -> None:
        if self.steps is not None and self.minutes is not None:
            raise UsageError("A training ends by steps or by minutes; give one of the two.")
        bounds = {"steps": (1, 10**12), "batch": (1, 10**6), "side": (1, 4096), "channels": (1, 16)}
        bounds |= {"accumulate": (1, 10**6), "sample_every": (0, 10**12), "save_every": (0, 10**12)}
        bounds |= {"patience": (1, 10**6)}
        for name, (low, high) in bounds.items():
            number = getattr(self, name)
            if number is not None and not low <= number <= high:
                words = "positive" if low and number < low else f"from {low} to {high:,}"
                raise UsageError(f"{name} must be {words}, not {str(number)[:40]}.")
        if self.minutes is not None and not (math.isfinite(self.minutes) and 0 < self.minutes < 1e8):
            raise UsageError(f"minutes must be positive and finite, not {self.minutes}.")
        for name in ("held_out", "allow_bad"):
            part = getattr(self, name)
            most = 0.5 if name == "held_out" else 1
            if part is not None and not 0 <= part <= most:
                raise UsageError(f"{name} is a part, from 0 to {most}, not {part}.")


def read_request(path: Path) -> Request:
    """train.json, each key of its own kind; WeightsError names what is damaged."""
    record = read_json(path)
    check_schema(record, path, SCHEMA)
    del record["schema"]
    hints = typing.get_type_hints(Request)
    needed = [f.name for f in fields(Request) if f.default is MISSING]
    for name in needed:
        if name not in record:
            raise WeightsError(f"{path} is damaged: it lacks {name!r}.")
    for name, value in record.items():
        if name not in hints:
            raise WeightsError(f"{path} is damaged, or of a newer sfumato: nothing is called {name!r} here.")
        if not _is(value, hints[name]):
            raise WeightsError(f"{path} is damaged: {name!r} cannot be {str(value)[:60]!r}.")
    try:
        return Request(**record)
    except UsageError as error:
        raise WeightsError(f"{path} is damaged: {error}") from error


def _is(value: Any, kind: Any) -> bool:
    """Whether a value out of JSON is of an annotated kind."""
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if origin in (types.UnionType, typing.Union):
        return any(_is(value, one) for one in inner)
    if origin is dict:
        return isinstance(value, dict) and all(_is(k, inner[0]) and _is(v, inner[1]) for k, v in value.items())
    if origin is list:
        return isinstance(value, list) and all(_is(one, inner[0]) for one in value)
    if kind is Any:
        return True
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    return isinstance(value, kind) and (kind is bool or not isinstance(value, bool))


def plan_for(request: Request, stage: str) -> recipes.Plan:
    """The recipe's plan of a stage, with what the request says instead."""
    plan = recipes.plan(request.recipe, stage, request.size)
    return replace(
        plan,
        steps=request.steps or plan.steps,
        batch=request.batch or plan.batch,
        accumulate=request.accumulate or plan.accumulate,
    )


# ---- the data again ----


def absolute(data: str | Path) -> str | None:
    """Where DATA is on this machine, from anywhere; None for what is no path."""
    text = str(data)
    if isinstance(data, str) and text.partition(":")[0] in (*names(), "hub"):
        return None
    return str(Path(text).expanduser().absolute())


def open_again(run: Path, data: str | Path | None = None) -> Set:
    """The data of a run, opened as they were, from wherever they lie now; `data` is a new place for them. DataError
    where they are not to be found, or are no longer what they were, with what came, went or differs."""
    request, about = read_request(run / "train.json"), read_json(run / "data.json")
    places = [str(data)] if data is not None else _places(run, request)
    problem: SfumatoError | None = None
    for place in places:
        try:
            source = _open(request, place)
        except (UnknownName, DataError) as error:
            problem = problem or error
            continue
        if source.fingerprint == about.get("fingerprint"):
            return source
        changed = DataError(
            f"{place} has changed since {run} began, so the run cannot go on as it was: {_difference(about, source)}. "
            f"Put it back as it was, name its new place by --data, or begin anew (--from all stages of {run})."
        )
        problem = problem if isinstance(problem, DataError) and "has changed" in str(problem) else changed
    assert problem is not None
    if isinstance(problem, UnknownName):
        raise DataError(f"{problem} The run {run} was trained on it; name its new place by --data.") from problem
    raise problem


def _places(run: Path, request: Request) -> list[str]:
    found = [request.data]
    if request.data_at is not None:
        found += [request.data_at, str(run.absolute().parent / request.data)]
    return list(dict.fromkeys(found))


def _open(request: Request, data: str) -> Set:
    return open_data(
        data,
        side=request.side,
        channels=request.channels,
        background=request.background,
        allow_bad=request.allow_bad,
    )


def _difference(about: Mapping[str, Any], source: Set) -> str:
    """What came, went, or is another picture now; as far as data.json tells."""
    before, now = about.get("files"), source.files
    if isinstance(before, dict) and now is not None:
        kinds = {
            "came": sorted(set(now) - set(before)),
            "went": sorted(set(before) - set(now)),
            "differ": sorted(file for file in set(now) & set(before) if now[file] != before[file]),
        }
        said = [f"{len(files)} pictures {verb} ({_some(files)})" for verb, files in kinds.items() if files]
        if said:
            return ", ".join(said)
        return "the pictures are the same, but labels, captions or their order are not"
    return f"it had {about.get('images', 'an unknown number of')} pictures, and has {len(source)}"


def _some(files: list[str]) -> str:
    return ", ".join(files[:NAMED]) + (", …" if len(files) > NAMED else "")
