"""The verb that looks at a set of pictures or of texts: data."""

from __future__ import annotations

from typing import Any

from jsonargparse import Namespace

from sfumato.cli.console import say_json, table
from sfumato.cli.parser import Parser, Verb, Words


def add_reading(parser: Parser) -> None:
    """How pictures are read, for every verb that opens a set."""
    parser.add_argument(
        "--background", type=str, default="white", help="what shows through transparency: a colour's name or #rrggbb"
    )
    parser.add_argument(
        "--allow-bad", type=float, default=0.05, help="the part of the files that may be bad, from 0 to 1"
    )


def _data_options(parser: Parser, words: Words) -> None:
    parser.add_argument("data", type=str, help="emoji, scenes, digits, a path, or hub:owner/name")
    parser.add_argument("--side", type=int | None, default=None, help="of the square pictures; its own if not given")
    parser.add_argument("--split", type=str, default="train", help="train, test, or what the set names")
    add_reading(parser)
    parser.add_json()


def data(args: Namespace) -> None:
    """Shows what a set holds; where a training would not begin, it shows that too, and ends as the training would."""
    from sfumato.core.errors import UsageError
    from sfumato.data import open_data
    from sfumato.data.assemble import refuse_bad
    from sfumato.data.told import told

    if not 0 <= args.allow_bad <= 1:
        raise UsageError(f"--allow-bad is a part, from 0 to 1, not {args.allow_bad}.")
    source = open_data(args.data, side=args.side, split=args.split, background=args.background, allow_bad=1.0)
    report: dict[str, Any] = {**source.report, "fingerprint": source.fingerprint}
    if args.json:
        say_json(report)
    else:
        rows = told(source)
        rows += [("warning", warning) for warning in report["warnings"]]
        table(("", args.data), rows)
    bad = [(one["file"], one["reason"]) for one in report["skipped"]][: report.get("bad", 0)]
    noun = "rows" if "texts" in report else "files"
    refuse_bad(args.data, report.get("good", len(source)), bad, args.allow_bad, report.get("reasons"), noun)


SETS = [
    Verb(
        "data",
        "DATA",
        "Say what a data set holds, what would be skipped, and why.",
        "sfumato data photos/",
        _data_options,
        data,
    ),
]
