"""A registry is a dict that helps: a duplicate name is an error, a missing one is answered with the nearest."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Iterator
from typing import Generic, TypeVar

from sfumato.core.errors import UnknownName

T = TypeVar("T")


def nearest(name: str, names: Iterable[str]) -> str:
    """The sentence that answers a wrong name: the closest known one, or the whole list."""
    known = sorted(names)
    close = difflib.get_close_matches(name.lower(), known, n=1, cutoff=0.5)
    return f"Did you mean {close[0]!r}?" if close else f"Known: {', '.join(known)}."


class Registry(Generic[T]):
    """name -> thing. `kind` is the word that errors use: "recipe", "data set", "metric". `otherwise` may make a thing
    of a name that is composed of others; such names are found, but not listed."""

    def __init__(self, kind: str):
        self.kind = kind
        self.otherwise: Callable[[str], T | None] = lambda name: None
        self._things: dict[str, T] = {}

    def add(self, name: str) -> Callable[[T], T]:
        """Decorator: registers what it decorates under `name`; raises ValueError when the name is taken."""
        if name in self._things:
            raise ValueError(f"The {self.kind} {name!r} is registered twice.")

        def register(thing: T) -> T:
            self._things[name] = thing
            return thing

        return register

    def __getitem__(self, name: str) -> T:
        found = self._things.get(name) or self.otherwise(name)
        if found is None:
            raise UnknownName(f"No {self.kind} is called {name!r}. {nearest(name, self._things)}")
        return found

    def __contains__(self, name: object) -> bool:
        if name in self._things or not isinstance(name, str):
            return name in self._things
        try:
            return self.otherwise(name) is not None
        except UnknownName:
            return False

    def __iter__(self) -> Iterator[str]:
        return iter(self._things)

    def __len__(self) -> int:
        return len(self._things)

    def items(self) -> Iterable[tuple[str, T]]:
        return self._things.items()
