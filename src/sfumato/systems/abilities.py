"""Trained things, and what can be asked of them.

A thing that is trained has a recipe, stages that learn, and words for its labels: a System, a Cascade, a Classifier.
What it can do is told by small protocols of a method or two each; a thing whose class has the method and which cannot
do it all the same (a codec alone draws nothing) says so in `lacks`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol, runtime_checkable

from torch import Tensor

from sfumato.core.contracts import Objective
from sfumato.core.space import Space


@runtime_checkable
class Trained(Protocol):
    recipe: dict[str, Any]  # {"name", "dials"}, which rebuild it
    classes: list[str]  # what the labels are called, by their numbers

    @property
    def data(self) -> Space | None:
        """Of the pictures that it reads or draws, a Grid; None where there are none."""
        ...

    @property
    def entries(self) -> tuple[str, ...]:
        """What it reads or draws: "image", "text"."""
        ...

    @property
    def hears(self) -> tuple[str, ...]:
        """What may be given when it is asked: "label", "text", …"""
        ...

    @property
    def learns(self) -> tuple[str, ...]:
        """What of a batch its training takes."""
        ...

    def stages(self) -> dict[str, Objective]: ...


@runtime_checkable
class Draws(Protocol):
    def sample(self, n: int = 1) -> Any: ...


@runtime_checkable
class Encodes(Protocol):
    def encode(self, x: Any) -> Tensor: ...


@runtime_checkable
class Decodes(Protocol):
    def decode(self, z: Tensor) -> Any: ...


@runtime_checkable
class Reconstructs(Protocol):
    def reconstruct(self, x: Any) -> Any: ...


@runtime_checkable
class Scores(Protocol):
    def log_prob(self, x: Any) -> Tensor: ...


@runtime_checkable
class Classifies(Protocol):
    def classify(self, images: Tensor) -> Tensor:
        """p(y | x) (n, K)."""
        ...


@runtime_checkable
class Embeds(Protocol):
    def embed(self, images: Tensor) -> Tensor:
        """(n, D)."""
        ...


@runtime_checkable
class Captions(Protocol):
    def caption(self, images: Tensor) -> list[str]: ...


@runtime_checkable
class Ranks(Protocol):
    def rank(self, images: Tensor, texts: list[str]) -> Tensor:
        """(n, m): how well each picture fits each text."""
        ...


ABILITIES: dict[str, tuple[type, str]] = {  # name → (protocol, what a person calls it)
    "draws": (Draws, "draw"),
    "encodes": (Encodes, "encode"),
    "decodes": (Decodes, "decode"),
    "reconstructs": (Reconstructs, "reconstruct"),
    "scores": (Scores, "give likelihoods"),
    "classifies": (Classifies, "classify"),
    "embeds": (Embeds, "embed"),
    "captions": (Captions, "caption"),
    "ranks": (Ranks, "rank"),
}


def abilities(thing: Any) -> tuple[str, ...]:
    """The names, in ABILITIES, of what it can do."""
    lacks = set(getattr(thing, "lacks", ()))
    return tuple(name for name, (protocol, _) in ABILITIES.items() if isinstance(thing, protocol) and name not in lacks)


def can(thing: Any, ability: str) -> bool:
    return ability in abilities(thing)


def in_words(names: Iterable[str]) -> str:
    """("draws", "encodes") → "draw, encode"; "nothing" of none."""
    return ", ".join(ABILITIES[name][1] for name in names) or "do nothing"
