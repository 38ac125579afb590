"""The verb that measures a run: score."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from jsonargparse import Namespace

from sfumato.cli.console import note, progress, say_json, table
from sfumato.cli.parser import Parser, Verb, Words
from sfumato.cli.runs import open_run
from sfumato.core.errors import UnknownName

JUDGE_STEPS = 300  # of training the classifier behind the score "accuracy"; half a minute on a CPU


def _score_options(parser: Parser, words: Words) -> None:
    parser.add_argument("run", type=str, help="a run folder, or hub:owner/name")
    parser.add_argument("data", type=str, help="the set to compare with")
    parser.add_argument("--metrics", type=str, nargs="+", default=None, help="of `list metrics`; all that apply if not")
    parser.add_argument("-n", "--number", type=int, default=2500, help="pictures; distances are biased below 10,000")
    parser.add_argument("--features", type=str, default="auto", help="the network in which pictures are compared")
    parser.add_argument("--split", type=str, default="train", help="the part of the set to compare with")
    parser.add_argument("--guidance", type=float, default=1.0, help="of the samples that are scored")
    parser.add_argument("--steps", type=int | None, default=None, help="of the sampler")
    parser.add_argument("--batch", type=int, default=32, help="pictures at once")
    parser.add_argument("--out", type=str | None, default=None, help="a JSON file; RUN/scores.json if not given")
    parser.add_seed()
    parser.add_device()
    parser.add_json()


def score(args: Namespace) -> None:
    from sfumato.checkpoint import read_json, write_json
    from sfumato.cli.runs import image_space
    from sfumato.data import open_data
    from sfumato.metrics import METRICS, evaluate
    from sfumato.metrics.record import merged
    from sfumato.train.fitting import refuse_unfit

    names = [name for word in args.metrics or () for name in word.split(",") if name]
    for name in names:
        METRICS[name]  # a wrong name is answered before anything is loaded
    system = open_run(args.run, args.device)
    pictures = "image" in system.entries
    look: dict[str, Any] = {"side": image_space(system)[-1], "channels": image_space(system)[0]} if pictures else {}
    source = open_data(args.data, split=args.split, **look)
    refuse_unfit(args.run, system, source)
    options: dict[str, Any] = {} if args.guidance == 1.0 else {"guidance": args.guidance}
    options |= {} if args.steps is None else {"steps": args.steps}
    part = lambda split: open_data(args.data, split=split, **look)
    judge = _judge(part("train"), system.device, args.seed) if "accuracy" in names else None
    gallery = _all_of(part) if "retrieval" in names else None
    with progress("Scoring") as watch:
        found = evaluate(
            system,
            source,
            names or None,
            args.number,
            seed=args.seed,
            features=args.features,
            batch=args.batch,
            options=options,
            judge=judge,
            gallery=gallery,
            progress=lambda what, done, total: watch(done, total),
        )
    own = Path(args.run) / "scores.json"
    place = Path(args.out) if args.out else own if own.parent.is_dir() else None
    for name, reason in found["protocol"].get("left_out", {}).items():
        note(f"warning: no score {name}: {reason}")
    if place is not None:
        before = read_json(place) if place.is_file() else {}
        write_json(place, merged(before, found, split=args.split))
    if args.json:
        say_json(found)
        return
    _show_scores(found)
    if place is not None:
        note(f"Wrote {place}.")


def _all_of(part: Callable[[str], Any]) -> Any:
    """Every picture of the set, where a generated one is looked up; None where the set has no parts."""
    try:
        return part("all")
    except UnknownName:
        return None


def _judge(source: Any, device: Any, seed: int) -> Any:
    """A small classifier of the set's own labels, trained here and now, that names what was drawn."""
    from sfumato.metrics import fit_classifier

    with progress("Training the judge", "steps") as watch:
        return fit_classifier(
            source, JUDGE_STEPS, seed=seed, device=device, progress=lambda step, loss: watch(step, JUDGE_STEPS)
        )


def _show_scores(found: dict[str, Any]) -> None:
    from sfumato.report.scores import better

    arrow = {"lower": "↓ lower is better", "higher": "↑ higher is better", None: ""}
    table(("score", "value", ""), [(n, f"{v:.4g}", arrow[better(n)]) for n, v in found["scores"].items()])
    protocol = found["protocol"]
    features, reference = protocol.get("features", {}), protocol.get("reference", {})
    looked = f"in {features['name']} features against" if features else "on"
    note(f"Measured {looked} {reference.get('count')} rows of {reference.get('set')}; `--json` tells the protocol.")


SCORE = Verb(
    "score",
    "RUN DATA",
    "Measure a run, with the protocol of every score.",
    "sfumato score runs/emoji emoji --metrics fd precision recall -n 2500",
    _score_options,
    score,
)
