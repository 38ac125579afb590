"""The verb that writes a page about a run: report."""

from __future__ import annotations

from pathlib import Path

from jsonargparse import Namespace

from sfumato.cli.console import note, progress, say_json
from sfumato.cli.parser import Parser, Verb, Words


def _report_options(parser: Parser, words: Words) -> None:
    parser.add_argument("run", type=str, help="a run folder")
    parser.add_argument("-n", "--number", type=int, default=16, help="samples to draw for it")
    parser.add_seed()
    parser.add_device()
    parser.add_json()


def report(args: Namespace) -> None:
    from sfumato.cli.runs import best_device
    from sfumato.report.run import write_report

    if not Path(args.run).is_dir():
        from sfumato.checkpoint.hub import missing

        raise missing(args.run)
    with progress("Drawing") as watch:
        place = write_report(
            Path(args.run), samples=args.number, seed=args.seed, device=best_device(args.device), watch=watch
        )
    if args.json:
        say_json({"run": args.run, "written": str(place)})
    else:
        note(f"Wrote {place}.")


REPORT = Verb(
    "report",
    "RUN",
    "Write RUN/report.html: curves, samples, reconstructions, scores.",
    "sfumato report runs/emoji",
    _report_options,
    report,
)
