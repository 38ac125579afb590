"""Verbs and their options. A verb is a row of a table; its parser is made when it is called, and no other.

A recipe's dials become options of `train` and `info` as soon as the words, or the file of --config, name the recipe,
so that `sfumato train vqgan --help` lists them; they are read by the recipe itself once they are said. Wrong names are
answered with the nearest, in one sentence.

An option that takes several values would swallow a RUN that stands behind them (`sample --text "a cat" runs/cats`).
Where words that a verb needs are missing, the last values of such an option are those words, if there are files or
folders so called, or the hub is named.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser, Namespace

from sfumato.core.errors import UsageError

Words = list[str]
Said = int | float | bool | str  # what a dial may look like in a file; the dial itself says what it takes


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
        self.recipe: str | None = None  # the one that the words name, where a verb has dials
        self.dials: list[str] = []
        self.add_argument("--debug", action="store_true", help="show the whole traceback of an error")

    def add_json(self) -> None:
        self.add_argument("--json", action="store_true", help="print one JSON document and nothing else")

    def add_seed(self, what: str = "of the first picture; the next has the next") -> None:
        self.add_argument("--seed", type=int, default=0, help=what)

    def add_device(self) -> None:
        self.add_argument("--device", type=str | None, default=None, help="cpu, cuda or mps; the best if not given")

    def add_dials(self, words: Words, skip: Iterable[str] = ()) -> None:
        """The dials of the recipe that the words name, but for those in `skip`, which the verb takes by itself; one
        that is not given is left to the recipe's default."""
        from sfumato.cli.index import dials_of

        self.recipe = recipe_named(words)
        for dial in dials_of(self.recipe) if self.recipe else ():
            name = dial["name"]
            self.dials.append(name)
            if name in skip:
                continue
            flags = dict.fromkeys((f"--{name.replace('_', '-')}", f"--{name}"))
            more = {"nargs": "?", "const": "true"} if dial["kind"] == "true|false" else {}
            self.add_argument(
                *flags,
                dest=name,
                type=str if dial["choices"] or "STR" in dial["kind"] else Said,
                default=None,
                metavar=dial["kind"],
                help=f"{dial['help']}; {_word(dial['default'])} if not given".replace("%", "%%"),
                **more,
            )

    def given_dials(self, parsed: Namespace) -> dict[str, Any]:
        """The dials that were said, each in its own type."""
        said = {name: getattr(parsed, name, None) for name in self.dials}
        said = {name: value for name, value in said.items() if value is not None}
        if not said:
            return {}
        from sfumato.recipes import RECIPES

        dials = RECIPES[str(self.recipe)].dials
        return {name: dials[name].read(value) for name, value in said.items()}

    def parse(self, words: Words) -> Namespace:
        if "--config" not in self._option_string_actions:  # a recipe may have a dial that is called so
            about = "a YAML or JSON file of these options; --print_config makes it"
            self.add_argument("--config", action="config", help=about)
        try:
            parsed = self.parse_args(_file_first(self._unswallowed(words)))
        except argparse.ArgumentError as error:
            raise UsageError(self._sentence(str(error))) from None
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError, OSError) as error:
            if isinstance(error, UsageError):
                raise
            first = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
            raise UsageError(f"{self.prog} cannot read these words: {first}") from error
        parsed.given = self.given_dials(parsed)
        return parsed

    def _unswallowed(self, words: Words) -> Words:
        """The words, with what a list option swallowed of those that the verb needs put in front."""
        needed = [action for action in self._actions if not action.option_strings and action.nargs is None]
        places, lists = self._values(words)
        missing = len(needed) - len(places)
        if missing <= 0 or "--config" in words or any(w.startswith("--config=") for w in words):
            return words
        for values in reversed(lists):
            taken = values[-missing:]
            if len(values) > len(taken) and all(_is_place(words[i]) for i in taken):
                return [*(words[i] for i in taken), *(w for i, w in enumerate(words) if i not in taken)]
        return words

    def _values(self, words: Words) -> tuple[list[int], list[list[int]]]:
        """(places of the words that belong to no option; of each option of several values the places of those)."""
        free: list[int] = []
        lists: list[list[int]] = []
        left: float = 0  # values that the option before still takes
        for i, word in enumerate(words):
            if word == "--":
                return [*free, *range(i + 1, len(words))], lists
            if word.startswith("-") and not re.fullmatch(r"-\d+(\.\d*)?", word):
                flag, equals, _ = word.partition("=")
                action = self._option_string_actions.get(flag)
                several = action is not None and action.nargs == "+"
                none = action is None or bool(equals) or action.nargs == 0
                left = float("inf") if several else 0 if none else 1
                lists += [[]] if several else []
            elif left:
                left -= 1
                if left == float("inf"):
                    lists[-1].append(i)
            else:
                free.append(i)
        return free, lists

    def error(self, message: str, ex: Exception | None = None) -> Any:  # argparse calls it from deep inside
        raise UsageError(self._sentence(message))

    def _sentence(self, message: str) -> str:
        """argparse's and jsonargparse's complaints as one sentence that says what now."""
        message = " ".join(message.split())
        verb = self.prog.split()[-1]
        known = [flag for action in self._actions for flag in action.option_strings if flag.startswith("--")]
        if found := re.search(r"unrecognized arguments: (.*)", message, re.IGNORECASE):
            wrong = next((word for word in found[1].split() if word.startswith("-")), found[1])
            flag = wrong.split("=")[0]
            advice = self._advice(verb, flag, known) if wrong.startswith("-") else "It is one word too many."
            return f"{self.prog} does not know {flag if wrong.startswith('-') else wrong}. {advice}"
        if found := re.search(r"Option '([^']*)' is not accepted", message):
            flag = f"--{found[1].replace('_', '-')}"
            return f"The file of --config has {found[1]!r}, unknown to {self.prog}. {self._advice(verb, flag, known)}"
        if "config" in message and (found := re.search(r"File does not exist: '?([^']*)'?", message)):
            return f"There is no file {found[1]} for --config."
        if found := re.search(r'Parser key "(\w+)": (.*)', message):
            key, why = found[1], found[2]
            value = re.search(r"(?:Got|Given) value: (.*?)(?: Given.*)?$", why)
            wants = re.search(r"Expected an? (.*?)\.? (?:Got|Given|-)", why)
            wanted = f" takes {_plain(wants[1])}" if wants else " is wrong"
            return f"--{key.replace('_', '-')}{wanted}" + (f", not {value[1]!r}." if value else f": {why}")
        if found := re.search(r"arguments are required: (.*)", message):
            return f"{self.prog} needs {found[1].upper()}. `{self.prog} --help` shows an example."
        return f"{self.prog}: {message[:300].rstrip('.')}."

    def _advice(self, verb: str, flag: str, known: list[str]) -> str:
        from sfumato.cli.elsewhere import answer
        from sfumato.cli.index import index

        owners: dict[str, list[str]] = {}
        for row in index()["recipes"]:
            for dial in row["dials"]:
                owners.setdefault(dial["name"], []).append(row["name"])
        return answer(verb, flag, known, self.recipe, owners)


class _Formatter(argparse.RawDescriptionHelpFormatter):
    def __init__(self, prog: str, **options: Any):
        super().__init__(prog, **{**options, "max_help_position": 30, "width": 110})

    def _get_help_string(self, action: argparse.Action) -> str | None:
        """The help, and the default where there is one to speak of."""
        said = action.help or ""
        if action.default in (None, False, argparse.SUPPRESS) or not action.option_strings:
            return said
        return f"{said} (default: %(default)s)"


def _word(default: Any) -> str:
    """A default as the command line takes it."""
    return str(default).lower() if default is None or isinstance(default, bool) else str(default)


def _plain(text: str) -> str:
    return re.sub(r"<class '(\w+)'>|typing\.Literal", r"\1", text).strip()


def _file_first(words: Words) -> Words:
    """The words, with --config before all others, so that what is typed counts more than what a file says."""
    for i, word in enumerate(words):
        if word == "--config" or word.startswith("--config="):
            end = i + (2 if word == "--config" else 1)
            return [*words[i:end], *words[:i], *words[end:]]
    return words


def _is_place(word: str) -> bool:
    """Whether a word is a file or a folder here, or a run of the hub."""
    try:
        return word.startswith("hub:") or Path(word).expanduser().exists()
    except (OSError, ValueError, RuntimeError):  # too long, a NUL, a home that nobody has
        return False


def recipe_named(words: Words) -> str | None:
    """The recipe that a command line speaks of: its first word that is one, else the one that its file of --config
    names. Options may stand before it."""
    from sfumato.cli.index import known

    found = next((word for word in words if known(word)), None)
    if found is None and (text := _config_text(words)):
        named = re.search(r"""["']?\b(?:recipe|name)["']?\s*:\s*["']?([\w.+-]+)""", text)
        found = named[1] if named and known(named[1]) else None
    return found


def _config_text(words: Words) -> str:
    """What the file of --config says; "" where there is none that can be read, which jsonargparse will say."""
    for i, word in enumerate(words):
        flag, equals, place = word.partition("=")
        if flag == "--config":
            place = place if equals else next(iter(words[i + 1 :]), "")
            try:
                return Path(place).read_text(encoding="utf-8") if Path(place).is_file() else ""
            except (OSError, ValueError):
                return ""
    return ""
