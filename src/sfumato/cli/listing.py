"""The verb that says what there is: list."""

from __future__ import annotations

from jsonargparse import Namespace

from sfumato.cli.console import say_json, table
from sfumato.cli.index import TOPICS, index
from sfumato.cli.parser import Parser, Verb, Words
from sfumato.core.errors import UsageError


def _list_options(parser: Parser, words: Words) -> None:
    parser.add_argument("topic", type=str, help="recipes, codecs, priors, data or metrics")
    parser.add_json()


def list_(args: Namespace) -> None:
    from sfumato.core.registry import nearest

    if args.topic not in TOPICS:
        raise UsageError(f"There is no list of {args.topic!r}. {nearest(args.topic, TOPICS)}")
    rows = index()[args.topic]
    if args.topic == "recipes":
        rows = [{**row, "dials": [dial["name"] for dial in row["dials"]]} for row in rows]
    if args.json:
        say_json(rows)
    else:
        table(("name", "what it is", "source"), [(row["name"], row["summary"], row["source"]) for row in rows])


LIST = Verb(
    "list",
    "recipes|data|metrics",
    "Say what there is, one line each, with its source.",
    "sfumato list recipes",
    _list_options,
    list_,
)
