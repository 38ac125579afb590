"""The table of recipes: a recipe is a typed function of few dials that returns a System or a Cascade.

    def ldm(frame: Frame, codec: str = "dae") -> System

The frame's dials (recipes/frame.py) are the same in every recipe that has them; a recipe has at most three of its own
beside. Both together are the command line, the studio's form and recipe.json: dials are ints, floats, bools, strings,
literals or "one of these or None", so they can be written down, and nothing else decides what is built.
"""

from __future__ import annotations

import dataclasses
import inspect
import re
import types
import typing
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch

from sfumato.core.errors import SfumatoError, UsageError
from sfumato.core.registry import Registry, nearest
from sfumato.recipes.dials import About, about
from sfumato.recipes.frame import ALL, Frame
from sfumato.recipes.plan import Plan
from sfumato.systems import Cascade, Classifier, System
from sfumato.systems.abilities import abilities

Built = System | Cascade | Classifier
Planner = Callable[[str, str], Plan]  # (stage, size) → how it is trained
MOST_OWN = 3


@dataclass(frozen=True)
class Dial:
    name: str
    type: Any
    default: Any
    about: About = field(default_factory=lambda: About(""))

    @property
    def help(self) -> str:
        """A sentence that says what it does, and its range where it has one."""
        return f"{self.about.help} ({self.about.range})" if self.about.range else self.about.help

    @property
    def choices(self) -> tuple[Any, ...] | None:
        return typing.get_args(self.type) if typing.get_origin(self.type) is typing.Literal else None

    def read(self, value: Any) -> Any:
        """The value in the dial's own type and range; raises UsageError with what would do."""
        if self.choices is not None:
            if value in self.choices:
                return value
            raise UsageError(
                f"--{self.name} {shown(value)} is not known. {nearest(str(value), map(str, self.choices))}"
            )
        if isinstance(self.type, types.UnionType):
            if value is None or value == "none":
                return None
            kinds = [kind for kind in typing.get_args(self.type) if kind is not type(None)]
        else:
            kinds = [self.type]
        try:
            found = _cast(kinds[0], value)
        except (TypeError, ValueError, OverflowError):
            raise UsageError(f"--{self.name} takes {kinds[0].__name__}, not {shown(value)}.") from None
        if kinds[0] in (int, float) and not self.about.allows(found):
            raise UsageError(f"--{self.name} takes {self.about.range or 'a finite number'}, not {shown(value)}.")
        return found


def shown(value: Any) -> str:
    """A value as an error quotes it: not more of it than a line holds."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "…"


def _cast(kind: type, value: Any) -> Any:
    if kind is str and not isinstance(value, str):
        raise ValueError
    if kind is not bool and isinstance(value, bool):
        raise ValueError
    if kind is bool:
        if str(value).lower() in ("true", "1", "yes"):
            return True
        if str(value).lower() in ("false", "0", "no"):
            return False
        raise ValueError
    if kind is int and isinstance(value, float) and not value.is_integer():
        raise ValueError
    return kind(value)


@dataclass(frozen=True)
class Recipe:
    """`frame` names the dials of the frame that it has; the function's first parameter takes them all in one."""

    name: str
    function: Callable[..., Built]
    planner: Planner
    frame: tuple[str, ...] = ALL

    @property
    def own(self) -> dict[str, Dial]:
        """The dials beside the frame's."""
        _, *parameters = inspect.signature(self.function).parameters.values()
        return self._made(typing.get_type_hints(self.function), {p.name: p.default for p in parameters})

    @property
    def dials(self) -> dict[str, Dial]:
        shared = {f.name: f.default for f in dataclasses.fields(Frame) if f.name in self.frame}
        return self._made(typing.get_type_hints(Frame), shared) | self.own

    def _made(self, hints: dict[str, Any], defaults: dict[str, Any]) -> dict[str, Dial]:
        return {name: Dial(name, hints[name], value, about(self.name, name)) for name, value in defaults.items()}

    @property
    def can(self) -> tuple[str, ...]:
        """What may be asked of it once it is trained (systems/abilities.py); of the smallest size, which needs no
        memory. Nothing, where the dials by themselves build nothing."""
        try:
            with torch.random.fork_rng([]), torch.device("meta"):
                return abilities(self.build(self.read({"size": "xs"} if "size" in self.frame else {})))
        except SfumatoError:
            return ()

    @property
    def summary(self) -> str:
        """The docstring's first sentence."""
        text = inspect.getdoc(self.function) or ""
        return " ".join(text.split("\n\n")[0].split())

    @property
    def source(self) -> str:
        found = re.search(r"arXiv:[\w./-]*\w", inspect.getdoc(self.function) or "")
        return found.group() if found else ""

    def read(self, dials: dict[str, Any]) -> dict[str, Any]:
        """All dials, with defaults filled in and every value in its own type."""
        known = self.dials
        for name in dials:
            if name not in known:
                raise UsageError(f"{self.name} has no dial {name!r}. {nearest(name, known)}")
        return {name: dial.read(dials[name]) if name in dials else dial.default for name, dial in known.items()}

    def build(self, read: dict[str, Any]) -> Built:
        """What is built of dials that were read."""
        frame = Frame(**{name: read[name] for name in self.frame})
        return self.function(frame, **{name: value for name, value in read.items() if name not in self.frame})


RECIPES: Registry[Recipe] = Registry("recipe")


F = TypeVar("F", bound=Callable[..., Built])


def add(name: str, planner: Planner, frame: tuple[str, ...] = ALL) -> Callable[[F], F]:
    """Decorator: the function under it becomes the recipe `name`, which has these dials of the frame."""

    def register(function: F) -> F:
        recipe = Recipe(name, function, planner, frame)
        if len(recipe.own) > MOST_OWN:
            raise ValueError(f"The recipe {name!r} has {len(recipe.own)} dials of its own; {MOST_OWN} are enough.")
        RECIPES.add(name)(recipe)
        return function

    return register


def build(name: str, **dials: Any) -> Built:
    """An untrained system; under torch.device("meta") nothing is allocated. UsageError for a wrong name or dial, and
    for dials that build nothing together."""
    recipe = RECIPES[name]
    read = recipe.read(dials)
    try:
        system = recipe.build(read)
    except SfumatoError:
        raise
    except (ValueError, ArithmeticError, RuntimeError, MemoryError) as error:  # each dial may be, but not all of them
        turned = ", ".join(f"{key} {shown(value)}" for key, value in dials.items()) or "these dials"
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
        raise UsageError(f"{name} cannot be built with {turned}: {reason}") from error
    system.recipe = {"name": name, "dials": read}
    return system


def plan(name: str, stage: str, size: str = "s") -> Plan:
    """How the stage ("codec", "prior", "large.prior", …) of a recipe is trained at a size."""
    return RECIPES[name].planner(stage, size)
