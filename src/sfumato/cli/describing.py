"""The verb that describes a recipe or a run: info."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jsonargparse import Namespace

from sfumato.cli.console import bytes_, count, note, say, say_json, table
from sfumato.cli.parser import Parser, Verb, Words
from sfumato.cli.runs import record
from sfumato.core.errors import SfumatoError, UsageError, WeightsError

SET = ("name", "data", "images", "texts", "captions", "side", "fingerprint")  # of data.json
SHOWN = 20  # classes that are named on a terminal; --json names all


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
        "data_set": {key: data[key] for key in SET if key in data},
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


INFO = Verb(
    "info",
    "RECIPE|RUN",
    "Describe a recipe or a run: latent space, parameters, compute, memory.",
    "sfumato info vqgan --size paper",
    _info_options,
    info,
)
