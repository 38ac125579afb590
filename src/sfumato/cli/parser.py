"""Verbs and their options. A verb is a row of a table; its parser is made when it is called, and no other.

A recipe's dials become typed options of `train` and `info` as soon as the words name the recipe, so that
`sfumato train vqgan --help` lists them. Wrong names are answered with the nearest, in one sentence.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Container, Iterable
from dataclasses import dataclass
from typing import Any

from jsonargparse import ArgumentParser, Namespace

from sfumato.core.errors import UsageError

Words = list[str]


@dataclass(frozen=True)
class Verb:
    name: str
    usage: str  # what follows the name, for the list of verbs
    summary: str
    example: str
    options: Callable[[Parser, Words], None]
    run: Callable[[Namespace], int | None]


class Parser(ArgumentParser):
    """jsonargparse's, with errors of our own."""

    def __init__(self, verb: Verb):
        super().__init__(
            prog=f"sfumato {verb.name}",
            description=verb.summary,
            epilog="example:\n  " + verb.example.replace("\n", "\n  "),
            formatter_class=_Formatter,
            exit_on_error=False,
        )
        self.dials: dict[str, Any] = {}
        self.add_argument("--debug", action="store_true", help="show the whole traceback of an error")

    def add_json(self) -> None:
        self.add_argument("--json", action="store_true", help="print one JSON document and nothing else")

    def add_seed(self, what: str = "of the first picture; the next has the next") -> None:
        self.add_argument("--seed", type=int, default=0, help=what)

    def add_device(self) -> None:
        self.add_argument("--device", type=str | None, default=None, help="cpu, cuda or mps; the best if not given")

    def add_dials(self, dials: dict[str, Any], skip: Iterable[str] = ()) -> None:
        """`dials` are recipes.Dial by name; one that is not given is left to the recipe's default."""
        for name, dial in dials.items():
            self.dials[name] = dial
            if name in skip:
                continue
            flags = dict.fromkeys((f"--{name.replace('_', '-')}", f"--{name}"))
            more = {"nargs": "?", "const": "true"} if dial.type is bool else {}
            self.add_argument(
                *flags,
                dest=name,
                type=str,
                default=None,
                metavar=kind(dial.type),
                help=f"dial of the recipe; {dial.default} if not given",
                **more,
            )

    def given_dials(self, parsed: Namespace) -> dict[str, Any]:
        """The dials that were said, each in its own type."""
        said = {name: getattr(parsed, name, None) for name in self.dials}
        return {name: self.dials[name].read(value) for name, value in said.items() if value is not None}

    def parse(self, words: Words) -> Namespace:
        try:
            parsed = self.parse_args(words)
        except argparse.ArgumentError as error:
            raise UsageError(self._sentence(str(error))) from None
        parsed.given = self.given_dials(parsed) if self.dials else {}
        return parsed

    def error(self, message: str, ex: Exception | None = None) -> Any:  # argparse calls it from deep inside
        raise UsageError(self._sentence(message))

    def _sentence(self, message: str) -> str:
        """argparse's and jsonargparse's complaints as one sentence that says what now."""
        from sfumato.core.registry import nearest

        message = " ".join(message.split())
        known = [flag for action in self._actions for flag in action.option_strings if flag.startswith("--")]
        if found := re.search(r"unrecognized arguments: (.*)", message, re.IGNORECASE):
            wrong = next((word for word in found[1].split() if word.startswith("-")), found[1])
            advice = nearest(wrong.split("=")[0], known) if wrong.startswith("-") else ""
            return f"{self.prog} does not know {wrong}. {advice or 'It is one word too many.'}"
        if found := re.search(r'Parser key "(\w+)": (.*)', message):
            key, why = found[1], found[2]
            value = re.search(r"(?:Got|Given) value: (.*?)(?: Given.*)?$", why)
            wants = re.search(r"Expected an? (.*?)\.? (?:Got|Given|-)", why)
            wanted = f" takes {_plain(wants[1])}" if wants else " is wrong"
            return f"--{key.replace('_', '-')}{wanted}" + (f", not {value[1]!r}." if value else f": {why}")
        if found := re.search(r"arguments are required: (.*)", message):
            return f"{self.prog} needs {found[1].upper()}. `{self.prog} --help` shows an example."
        return f"{self.prog}: {message}."


class _Formatter(argparse.RawDescriptionHelpFormatter):
    def __init__(self, prog: str, **options: Any):
        super().__init__(prog, **{**options, "max_help_position": 30, "width": 110})

    def _get_help_string(self, action: argparse.Action) -> str | None:
        """The help, and the default where there is one to speak of."""
        said = action.help or ""
        if action.default in (None, False, argparse.SUPPRESS) or not action.option_strings:
            return said
        return f"{said} (default: %(default)s)"


def _plain(text: str) -> str:
    return re.sub(r"<class '(\w+)'>|typing\.Literal", r"\1", text).strip()


def kind(hint: Any) -> str:
    """A type as a person writes it: INT, FLOAT, {a,b,c}, INT|none."""
    import types
    import typing

    if typing.get_origin(hint) is typing.Literal:
        return "{" + ",".join(map(str, typing.get_args(hint))) + "}"
    if isinstance(hint, types.UnionType):
        return "|".join("none" if part is type(None) else kind(part) for part in typing.get_args(hint))
    return "true|false" if hint is bool else hint.__name__.upper()


def recipe_named(words: Words, known: Container[str]) -> str | None:
    """The recipe that a command line speaks of: its first word that is one. Options may stand before it."""
    return next((word for word in words if word in known), None)
