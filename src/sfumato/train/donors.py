"""What one run may take from another, `--from NAME=RUN`, and which stages are thereby over.

    NAME        a stage · a system of a cascade, "small" · a part of a system, "codec", "small.codec", "small.prior.net"
    of RUN      the part of that name; where RUN is one system and we are a cascade, the part without our system's name,
                and all of RUN where that was the whole name

A stage all of whose parameters were given is not trained. `all` is all of RUN, of the same recipe, as a beginning: its
priors are trained on, and the codecs that they stand on are kept. With `--tune` every NAME is a beginning (tuning.py).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from torch import nn

from sfumato import recipes
from sfumato.checkpoint import load_model
from sfumato.core.errors import UsageError, WeightsError
from sfumato.core.registry import nearest
from sfumato.systems import Cascade
from sfumato.systems.cascade import AtItsOwnSize
from sfumato.train.request import Request
from sfumato.train.tuning import take

ALL = "all"
ANSWERED = ("classes", "text")  # dials that the data answer
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


def given_stages(thing: Any, given: Iterable[str]) -> list[str]:
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


def kept(thing: Any, request: Request) -> list[str]:
    """The names of what is given and left as it is. Of `all` these are the codecs that a prior stands on: it would find
    other latents than it knows."""
    names = [] if request.tune else list(request.given or {})
    stages = [] if ALL not in names else list(thing.stages())
    codecs = [name for name in stages if name.endswith("codec") and name[: -len("codec")] + "prior" in stages]
    return [name for name in names if name != ALL] + codecs


def _has_weights(part: nn.Module | None) -> bool:
    return part is not None and bool(part.state_dict())


def _known(name: str, thing: Any) -> str:
    """The nearest of the parts, and all of them: there are few."""
    names = parts_of(thing)
    listed = f"It has {', '.join(names)}." if names else "It has none."
    advice = nearest(name, names) if names else ""
    return f"{advice} {listed}" if advice.startswith("Did") else listed


# ---- what is taken ----


def donated(path: str | Path) -> Any:
    """What to take a part from: a run of ours, or a folder of a published model, as diffusers or transformers saves
    it."""
    folder = Path(path)
    if (folder / "config.json").exists() and not (folder / "recipe.json").exists():
        return recipes.from_published(folder)
    return load_model(path)


def inherited(
    recipe: str, dials: Mapping[str, Any], given: Mapping[str, str | Path], size: str, side: int | None
) -> tuple[dict[str, Any], str, int | None]:
    """(dials, size, side): what is taken decides what is built. All of a run its dials, but for what the data answer;
    a codec becomes the dial of that name, its pictures' shape ours. What the user says counts more."""
    if ALL in given:
        donor = donated(given[ALL])
        name, theirs = donor.recipe["name"], dict(donor.recipe["dials"])
        if name != recipe:
            raise UsageError(
                f"{given[ALL]} is a {name}, and {recipe} is to be trained. Train {name}, or take a part of it: it has "
                f"{', '.join(parts_of(donor))}."
            )
        kept = {key: value for key, value in theirs.items() if key not in ("size", "side", *ANSWERED)}
        return kept | dict(dials), theirs.get("size", size), theirs.get("side") if side is None else side
    if "codec" not in given or "codec" in dials or "codec" not in recipes.RECIPES[recipe].dials:
        return dict(dials), size, side
    donor = donated(given["codec"])
    if getattr(donor, "codec", None) is None:
        return dict(dials), size, side  # `taken` will say what it has instead
    found = {"codec": recipes.codec_spec(donor.recipe)}
    shape = {"channels": donor.codec.data.channels} | ({"side": donor.codec.data.width} if side is None else {})
    return found | shape | dict(dials), size, side


def take_given(system: Any, request: Request) -> tuple[list[str], list[str]]:
    """Fills the parts that other runs give, the larger ones first; (what is to be said, the stages that begin with all
    that they had). WeightsError where they do not fit."""
    told: list[str] = []
    begun: list[str] = []
    order = lambda item: (item[0] != ALL, item[0].count("."))
    for name, path in sorted((request.given or {}).items(), key=order):
        donor = donated(path)
        what = f"{name!r} of {request.recipe}"
        if name == ALL or request.tune:
            ours, theirs = (system, donor) if name == ALL else taken(system, name, donor, request.recipe, str(path))
            found = take(ours, theirs, system.classes, list(getattr(donor, "classes", ())), what, str(path))
            told += found.said(str(path))
            begun += [] if found.anew else given_stages(system, system.stages() if name == ALL else [name])
        else:
            _fill(*taken(system, name, donor, request.recipe, str(path)), what, str(path))
    return told, begun


def _fill(mine: nn.Module, theirs: nn.Module, what: str, whence: str) -> None:
    """All weights of one module from another, or none."""
    own, other = mine.state_dict(), theirs.state_dict()
    faults = [f"missing {name}" for name in own if name not in other]
    faults += [f"unexpected {name}" for name in other if name not in own]
    faults += [
        f"reshaped {name}: {tuple(other[name].shape)}, not {tuple(value.shape)}"
        for name, value in own.items()
        if name in other and other[name].shape != value.shape
    ]
    if faults:
        listed = "".join(f"\n  {fault}" for fault in itertools.islice(faults, 10))
        raise WeightsError(f"{whence} does not fit {what}; nothing was taken. Build both with the same dials.{listed}")
    mine.load_state_dict(other)
