"""The verbs that train: train, resume. Both end with scores and RUN/report.html."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any, Literal

from jsonargparse import Namespace

from sfumato.cli.console import note, progress, say_json
from sfumato.cli.parser import Parser, Verb, Words
from sfumato.cli.runs import best_device
from sfumato.cli.sets import add_reading
from sfumato.core.errors import SfumatoError, UsageError

OWN = ("size", "side")  # dials that `train` takes by itself, so that every recipe has them at one place
SCORED = 1000  # pictures for the scores at the end of a training; `sfumato score` measures with more


def _train_options(parser: Parser, words: Words) -> None:
    parser.add_argument("recipe", type=str, help="`sfumato list recipes` names them; with it --help lists its dials")
    parser.add_argument("data", type=str, help="emoji, scenes, digits, a path, or hub:owner/name")
    parser.add_argument("--out", type=str, required=True, help="the run folder to make")
    parser.add_argument("--size", type=str, default="s", help="xs (a test), s (a laptop), m (a GPU), paper")
    parser.add_argument("--side", type=int | None, default=None, help="in pixels; the size's own if not given")
    parser.add_argument("--steps", type=int | None, default=None, help="for each stage")
    parser.add_argument("--minutes", type=float | None, default=None, help="for all stages together, instead of steps")
    parser.add_argument("--batch", type=int | None, default=None, help="pictures a step")
    parser.add_argument(
        "--from",
        dest="from_",
        type=str,
        nargs="+",
        action="extend",
        default=None,
        metavar="NAME=RUN",
        help="takes a stage or a part over, as codec=runs/vae or small.prior=runs/ddpm; all=RUN trains on from a run",
    )
    parser.add_argument(
        "--tune", action="store_true", help="what --from gives is where training begins, not what is left as it is"
    )
    parser.add_argument("--precision", type=Literal["fp32", "bf16"], default="fp32", help="of the arithmetic")
    parser.add_argument("--device", type=str | None, default=None, help="cpu, cuda or mps; the best if not given")
    parser.add_argument(
        "--accumulate", type=int | None, default=None, help="parts that a batch is computed in, where memory is short"
    )
    parser.add_argument(
        "--sample-every", type=int | None, default=None, help="steps between sample grids; 0: only at the end"
    )
    parser.add_argument(
        "--save-every", type=int | None, default=None, help="steps between checkpoints; ten minutes if not given"
    )
    parser.add_argument(
        "--held-out",
        type=float | None,
        default=None,
        help="the part that is not trained on; 0: none. A set's own test part, or 2 %% of large sets, if not given",
    )
    parser.add_argument(
        "--patience", type=int | None, default=None, help="ends a stage after so many looks at it without a better loss"
    )
    parser.add_argument(
        "--prompts", type=str, nargs="+", default=None, metavar="T", help="captions or classes of the sample grids"
    )
    add_reading(parser)
    parser.add_argument("--score", type=int, default=SCORED, help="pictures for the scores at the end; 0: no scores")
    parser.add_seed("of the whole training: first weights, order of the data, noise")
    parser.add_json()
    parser.add_dials(words, skip=OWN)


def train(args: Namespace) -> None:
    from sfumato.recipes import RECIPES
    from sfumato.train.run import train as begin

    recipe = RECIPES[args.recipe]
    if "size" in recipe.dials:
        recipe.dials["size"].read(args.size)
    run = begin(
        args.recipe,
        args.data,
        out=args.out,
        size=args.size,
        side=args.side,
        steps=args.steps,
        minutes=args.minutes,
        batch=args.batch,
        seed=args.seed,
        precision=args.precision,
        device=args.device,
        accumulate=args.accumulate,
        sample_every=args.sample_every,
        save_every=args.save_every,
        held_out=args.held_out,
        patience=args.patience,
        prompts=args.prompts,
        background=args.background,
        allow_bad=args.allow_bad,
        from_=_given_stages(args.from_ or []),
        tune=args.tune,
        **{name: value for name, value in args.given.items() if name not in OWN},
    )
    _conclude(run, args.score, args.json)


def _given_stages(words: list[str]) -> dict[str, str]:
    """["codec=runs/vae", …] → {"codec": "runs/vae"}."""
    found = {}
    for word in words:
        stage, equals, run = word.partition("=")
        if not (stage and equals and run):
            raise UsageError(f"--from takes STAGE=RUN, such as codec=runs/vae, not {word!r}.")
        if stage in found:
            raise UsageError(f"--from names the stage {stage!r} twice.")
        found[stage] = run
    return found


def _resume_options(parser: Parser, words: Words) -> None:
    parser.add_argument("run", type=str, help="the run folder")
    parser.add_argument("--data", type=str | None, default=None, help="where the same pictures lie now")
    parser.add_argument(
        "--steps", type=int | None, default=None, help="so many more: of the last stage, if the run is finished"
    )
    parser.add_argument("--minutes", type=float | None, default=None, help="so many more, instead of steps")
    parser.add_argument("--score", type=int, default=SCORED, help="pictures for the scores at the end; 0: no scores")
    parser.add_json()


def resume(args: Namespace) -> None:
    from sfumato.train.run import resume as go_on

    run = go_on(args.run, data=args.data, steps=args.steps, minutes=args.minutes)
    _conclude(run, args.score, args.json)


def _conclude(run: Any, scored: int, as_json: bool) -> None:
    """Scores and the report. A training that succeeded is not called a failure for what comes after it."""
    from sfumato.train.parallel import leave

    leave()
    if int(os.environ.get("RANK", "0")):  # one process of several speaks
        return
    path, device = Path(run.path), best_device(None)
    scores: dict[str, float] = {}
    if scored:
        try:
            scores = _score(path, scored, device)
        except Exception as error:  # whatever it is, the training is done
            if not isinstance(error, SfumatoError):
                logging.getLogger("sfumato").debug("The run could not be scored.", exc_info=True)
            note(f"warning: the run could not be scored: {error}")
    place = None
    try:
        from sfumato.report.run import write_report

        with progress("Drawing the report") as watch:
            place = str(write_report(path, device=device, watch=watch))
    except SfumatoError as error:
        note(f"warning: the report could not be written: {error}")
    if as_json:
        facts = {"run": str(path), "steps": run.steps, "loss": run.loss, "seconds": round(run.seconds, 3)}
        say_json({**facts, "scores": scores, "report": place})
        return
    loss = "" if run.loss is None else f", last loss {run.loss:.4g}"
    note(f"{path} is trained: {run.steps:,} steps in {run.seconds / 60:.1f} minutes{loss}.")
    for name, value in scores.items():
        note(f"  {name}  {value:.4g}")
    if place is not None:
        note(f"Open {place}, which also says how to go on.")


def _score(path: Path, scored: int, device: Any) -> dict[str, float]:
    """Against the data of the training itself; writes RUN/scores.json."""
    from sfumato.checkpoint import write_json
    from sfumato.metrics import evaluate
    from sfumato.metrics.record import merged
    from sfumato.report.opened import Opened
    from sfumato.systems.abilities import can
    from sfumato.train.held import judged_on
    from sfumato.train.request import read_request

    opened, split = Opened(path, device), "train"
    source = opened.source
    if (
        can(opened.system, "classifies") or "image" not in opened.system.entries
    ):  # what it learned by heart says nothing
        source, split = judged_on(source, read_request(path / "train.json"))
    with progress("Scoring") as watch:
        found = evaluate(opened.system, source, n=scored, progress=lambda what, done, total: watch(done, total))
    for name, reason in found["protocol"].get("left_out", {}).items():
        note(f"warning: no score {name}: {reason}")
    write_json(path / "scores.json", merged(opened.record("scores.json"), found, split=split))
    return found["scores"]


TRAINING = [
    Verb(
        "train",
        "RECIPE DATA --out RUN",
        "Train a recipe on pictures: all its stages, one after the other.",
        "sfumato train ddpm emoji --out runs/emoji --minutes 10\n"
        "sfumato train ldm photos/ --out runs/photos --from codec=runs/vae --size s",
        _train_options,
        train,
    ),
    Verb(
        "resume",
        "RUN",
        "Go on exactly where a training stopped.",
        "sfumato resume runs/emoji",
        _resume_options,
        resume,
    ),
]
