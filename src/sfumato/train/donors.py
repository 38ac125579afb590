"""What one run may take from another, `--from NAME=RUN`, and which stages are thereby over.

    NAME        a stage · a system of a cascade, "small" · a part of a system, "codec", "small.codec", "small.prior.net"
    of RUN      the part of that name; where RUN is one system and we are a cascade, the part without our system's name,
                and all of RUN where that was the whole name

A stage all of whose parameters were given is not trained.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import nn

from sfumato.core.errors import UsageError
from sfumato.core.registry import nearest
from sfumato.systems import Cascade
from sfumato.systems.cascade import AtItsOwnSize

PARTS = ("codec", "prior", "conditioner", "network")


def parts_of(thing: Any) -> list[str]:
    """The names of what can be given, as an error lists them: only what has weights."""
    systems = dict(thing.named()) if isinstance(thing, Cascade) else {"": thing}
    names = [*thing.stages(), *(name for name in systems if name)]
    names += [f"{name}.{part}".lstrip(".") for name in systems for part in PARTS]
    return [name for name in dict.fromkeys(names) if _has_weights(part_of(thing, name))]


def part_of(thing: Any, name: str) -> nn.Module | None:
    """A stage's objective, else a system, else a part of one; None where nothing is called so."""
    stage: Any = thing.stages().get(name)
    if stage is not None:
        return stage.objective if isinstance(stage, AtItsOwnSize) else stage  # type: ignore[return-value]
    system, _, path = name.partition(".") if isinstance(thing, Cascade) else (None, "", name)
    try:
        root = thing if system is None else thing.systems[system]
        return root.get_submodule(path)
    except (AttributeError, KeyError):
        return None


def taken(mine: Any, name: str, donor: Any, recipe: str, whence: str) -> tuple[nn.Module, nn.Module]:
    """(our part, theirs); UsageError names what there is."""
    ours, theirs = part_of(mine, name), part_of(donor, name)
    if not _has_weights(ours):
        raise UsageError(f"{recipe} has no stage or part {name!r}. {_known(name, mine)}")
    if theirs is None and isinstance(mine, Cascade) and not isinstance(donor, Cascade):
        theirs = part_of(donor, name.partition(".")[2])
    if not _has_weights(theirs):
        raise UsageError(f"{whence} has no stage or part {name!r} to give. {_known(name, donor)}")
    return ours, theirs  # type: ignore[return-value]


def over(thing: Any, given: Iterable[str]) -> list[str]:
    """The stages that are not trained where these parts are given."""
    names = list(given)
    parts = [part for name in names if isinstance(part := part_of(thing, name), nn.Module)]
    have = {id(parameter) for part in parts for parameter in part.parameters()}
    found = []
    for name, objective in thing.stages().items():
        learned = [id(parameter) for player in objective.players() for parameter in player]
        if name in names or (learned and have.issuperset(learned)):
            found.append(name)
    return found


def _has_weights(part: nn.Module | None) -> bool:
    return part is not None and bool(part.state_dict())


def _known(name: str, thing: Any) -> str:
    """The nearest of the parts, and all of them: there are few."""
    names = parts_of(thing)
    listed = f"It has {', '.join(names)}." if names else "It has none."
    advice = nearest(name, names) if names else ""
    return f"{advice} {listed}" if advice.startswith("Did") else listed
