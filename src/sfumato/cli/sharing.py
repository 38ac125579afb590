"""The verb that hands a trained system on: push."""

from __future__ import annotations

from jsonargparse import Namespace

from sfumato.cli.console import note, say_json
from sfumato.cli.parser import Parser, Verb, Words
from sfumato.cli.runs import open_run


def _push_options(parser: Parser, words: Words) -> None:
    parser.add_argument("run", type=str, help="a run folder, or a folder of save_pretrained")
    parser.add_argument("repository", type=str, help="owner/name on the Hugging Face hub; made if there is none")
    parser.add_argument("--private", action="store_true", help="nobody else sees it, where it is made now")
    parser.add_argument(
        "--token", type=str | None, default=None, help="of the hub; that of `hf auth login` if not given"
    )
    parser.add_argument("--license", type=str | None, default=None, help="of the weights, such as apache-2.0")
    parser.add_argument("--data-license", type=str | None, default=None, help="of the pictures that it has seen")
    parser.add_json()


def push(args: Namespace) -> None:
    system = open_run(args.run, "cpu")
    address = system.push_to_hub(
        args.repository.removeprefix("hub:"),
        private=args.private,
        token=args.token,
        license=args.license,
        data_license=args.data_license,
    )
    if args.json:
        say_json({"run": args.run, "repository": args.repository, "address": address})
        return
    if args.license is None:
        note("warning: the card states no licence of the weights; --license apache-2.0, for instance, does.")
    note(f"Pushed {args.run} with its card: {address}")


SHARING = [
    Verb(
        "push",
        "RUN OWNER/NAME",
        "Upload a run to the Hugging Face hub, with a card.",
        "sfumato push runs/emoji someone/emoji --license apache-2.0",
        _push_options,
        push,
    ),
]
