"""The verbs that report: list, info, score, report."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from jsonargparse import Namespace

from sfumato.cli.console import bytes_, count, note, progress, say, say_json, table
from sfumato.cli.index import TOPICS, index
from sfumato.cli.parser import Parser, Verb, Words
from sfumato.cli.runs import open_run, record
from sfumato.core.errors import SfumatoError, UnknownName, UsageError, WeightsError

ABOUT_DATA = ("name", "images", "captions", "side", "channels", "fingerprint")
SET = ("name", "data", "images", "texts", "captions", "side", "fingerprint")  # of data.json, in `info`
JUDGE_STEPS = 300  # of training the classifier behind the score "accuracy"; half a minute on a CPU
SHOWN = 20  # skipped files that are named on a terminal; --json names all

# ---- list ----


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


# ---- info ----


def _info_options(parser: Parser, words: Words) -> None:
    parser.add_argument("name", type=str, help="a recipe, a run folder, or hub:owner/name")
    parser.add_dials(words)
    parser.add_json()


def info(args: Namespace) -> None:
    from sfumato.cli.anatomy import describe
    from sfumato.recipes import RECIPES

    if args.name in RECIPES:
        facts = describe(args.name, args.given)
    elif args.name.startswith("hub:"):
        from sfumato.checkpoint.hub import locate

        facts = {**_of_run(str(locate(args.name))), "run": args.name}
    elif Path(args.name).is_dir():
        facts = _of_run(args.name)
    else:
        RECIPES[args.name]  # raises with the nearest
    if args.json:
        say_json(facts)
    else:
        _show(facts)


def _of_run(run: str) -> dict[str, Any]:
    """A recipe's facts with the run's own dials, and data, steps and scores. WeightsError for a run that cannot be
    used: its files are looked at as loading does, though no weight is read into a model."""
    from sfumato.checkpoint.model import class_names
    from sfumato.cli.anatomy import describe
    from sfumato.report.opened import history

    recipe, place = _checked_recipe(Path(run))
    try:
        facts = describe(recipe["name"], recipe["dials"])
    except UsageError as error:
        raise WeightsError(f"{place} cannot be built: {error}") from error
    names = class_names(recipe, place)
    steps = history(Path(run))
    data = record(run, "data.json")
    return {
        **facts,
        "run": run,
        **({"classes": names} if names else {}),
        "data_set": {
            key: data[key]
            for key in ("name", "data", "images", "texts", "captions", "side", "fingerprint")
            if key in data
        },
        "steps": max((line["step"] for line in steps), default=0),
        "loss": next((line["loss"] for line in reversed(steps) if line.get("loss") is not None), None),
        "scores": record(run, "scores.json").get("scores", {}),
        **_schedule(run),
    }


def _checked_recipe(run: Path) -> tuple[dict[str, Any], Path]:
    """recipe.json of a run or of a model folder, and where it is, after both agree and the model's files are whole."""
    from sfumato.checkpoint import read_recipe
    from sfumato.checkpoint.model import check_model

    places = [path for path in (run / "recipe.json", run / "model" / "recipe.json") if path.is_file()]
    if not places:
        raise UsageError(f"{run} is a folder, but no run: there is no recipe.json in it.")
    found = [read_recipe(path) for path in places]
    for other, path in zip(found[1:], places[1:]):
        if (other["name"], other["dials"]) != (found[0]["name"], found[0]["dials"]):
            raise WeightsError(f"{path} is of another model than {places[0]}: {other['name']!r}, {found[0]['name']!r}.")
    if any((path.parent / "weights.safetensors").exists() for path in places):
        check_model(run)
    return found[-1], places[-1]


def _schedule(run: str) -> dict[str, str]:
    """Draws RUN/schedule.png where components have schedules of their own; nothing is lost where it cannot be drawn."""
    from sfumato.checkpoint import write_file
    from sfumato.cli.runs import best_device
    from sfumato.report.opened import Opened
    from sfumato.report.pictures import png
    from sfumato.report.schedule import draw_run

    try:
        found = draw_run(Opened(Path(run), best_device(None)))
        if found is None:
            return {}
        place = Path(run) / "schedule.png"
        write_file(place, png(found[0], {"run": run, "summary": found[1]}))
    except SfumatoError as error:
        note(f"warning: the schedule could not be drawn: {error}")
        return {}
    return {"schedule": str(place), "order": found[1]}


def _show(facts: dict[str, Any]) -> None:
    say(f"{facts['name']}, size {facts['size']}")
    dials = ", ".join(f"{key}={value}" for key, value in facts["dials"].items() if key != "size")
    what = "texts" if facts["data"].startswith("Tokens") else "pictures"
    rows = [("dials", dials or "–"), (what, facts["data"]), ("latent space", facts["space"] or "none")]
    own = facts["parameters"]
    parts = ", ".join(f"{part} {count(number)}" for part, number in own.items() if part != "total" and number)
    rows.append(("parameters", f"{count(own['total'])} ({parts})" if parts else "0"))
    for name, stage in facts["stages"].items():
        players = ", two players" if stage["players"] > 1 else ""
        rows.append(
            (
                f"stage {name}",
                f"trains {count(stage['parameters'])} for {stage['steps']:,} steps of {stage['batch']} "
                f"at rate {stage['rate']:g}{players}",
            )
        )
    rows.append(("options of sample", ", ".join(facts["options"]) or "–"))
    known = [f"{part} {count(n)}" for part, n in facts["compute"].items() if isinstance(n, int) and n]
    rows.append(("FLOP a picture", ", ".join(known) or "not countable"))
    memory = facts["memory"]
    kept = [bytes_(n) for n in memory["per_picture"].values() if n]
    more = f", and {' or '.join(kept)} a picture of the batch" if kept else ""
    rows.append(("memory", f"{bytes_(memory['weights'])} to sample, {bytes_(memory['training'])} to train{more}"))
    if "run" in facts:
        data = facts["data_set"]
        held = f"{data['texts']:,} texts" if data.get("texts") else f"{data.get('images', 0):,} pictures"
        rows.append(("data", f"{data.get('name', 'unknown')}, {held}"))
        loss = "" if facts["loss"] is None else f", last loss {facts['loss']:.4g}"
        rows.append(("trained", f"{facts['steps']:,} steps{loss}"))
        if names := facts.get("classes"):
            more = f" … ({len(names)} in all)" if len(names) > SHOWN else ""
            rows.append(("classes", ", ".join(names[:SHOWN]) + more))
        rows += [(f"score {name}", f"{value:.4g}") for name, value in facts["scores"].items()]
        if "schedule" in facts:
            rows.append(("schedule", f"{facts['order']} See {facts['schedule']}."))
    table(("", ""), rows)


# ---- score ----


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
    from sfumato.report.run import better

    arrow = {"lower": "↓ lower is better", "higher": "↑ higher is better", None: ""}
    table(("score", "value", ""), [(n, f"{v:.4g}", arrow[better(n)]) for n, v in found["scores"].items()])
    protocol = found["protocol"]
    features, reference = protocol.get("features", {}), protocol.get("reference", {})
    note(
        f"Measured in {features.get('name', 'unnamed')} features against {reference.get('count')} pictures of "
        f"{reference.get('set')}; `--json` prints the whole protocol."
    )


# ---- report ----


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


TELLING = [
    Verb(
        "list",
        "recipes|data|metrics",
        "Say what there is, one line each, with its source.",
        "sfumato list recipes",
        _list_options,
        list_,
    ),
    Verb(
        "info",
        "RECIPE|RUN",
        "Describe a recipe or a run: latent space, parameters, compute, memory.",
        "sfumato info vqgan --size paper",
        _info_options,
        info,
    ),
    Verb(
        "score",
        "RUN DATA",
        "Measure a run, with the protocol of every score.",
        "sfumato score runs/emoji emoji --metrics fd precision recall -n 2500",
        _score_options,
        score,
    ),
    Verb(
        "report",
        "RUN",
        "Write RUN/report.html: curves, samples, reconstructions, scores.",
        "sfumato report runs/emoji",
        _report_options,
        report,
    ),
]
