"""A training from a recipe's name and a set of pictures to a run folder, stage after stage.

    train     recipe.json, train.json (what was asked), data.json → for each stage not given by `from_`:
              prepare → fit → averaged weights → finish → model/
    resume    the newest checkpoint that verifies, and on as if nothing had been

With `minutes`, each stage that is left gets an equal part of the minutes that are left when it begins. Whatever the
recipe draws at its making comes from derive(seed, "init"), so a run is a function of its request and its data.
"""

from __future__ import annotations

import base64
import html
import logging
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn

from sfumato import recipes
from sfumato.checkpoint import (
    latest,
    load_model,
    load_state,
    lock,
    read_recipe,
    recipe_record,
    recover,
    write_json,
)
from sfumato.checkpoint import steps as saved_steps
from sfumato.checkpoint.hub import missing
from sfumato.core.errors import UsageError, WeightsError
from sfumato.core.noise import derive
from sfumato.core.space import Grid
from sfumato.data import Set, open_data
from sfumato.train.course import Course
from sfumato.train.donors import inherited, take_given
from sfumato.train.fit import seeded
from sfumato.train.fitting import check_heard, class_names_of, further, refuse_giants, refuse_unfit
from sfumato.train.held import split
from sfumato.train.log import rewind
from sfumato.train.opening import opening, say
from sfumato.train.parallel import accelerator_for
from sfumato.train.ranks import watched
from sfumato.train.request import MOST_FILES, SCHEMA, Request, absolute, open_again, read_request
from sfumato.train.stages import Stages, over
from sfumato.train.stop import Stop

GREY = {"1", "L", "I;16", "I;16L", "I;16B", "I;16N"}  # Pillow's modes without colour
log = logging.getLogger("sfumato")


@dataclass(frozen=True)
class Run:
    """A training that is over: where it is, what it took, and how it ended."""

    path: Path
    steps: int
    loss: float | None
    seconds: float

    def load(self) -> nn.Module:
        """The trained system, with averaged weights, in eval mode."""
        return load_model(self.path)

    def _repr_html_(self) -> str:
        """For a notebook: what it took, and the last sample grid."""
        loss = "" if self.loss is None else f", last loss {self.loss:.4g}"
        said = f"{self.path}: {self.steps:,} steps in {self.seconds / 60:.1f} minutes{loss}"
        grids = [p for p in (self.path / "samples").glob("*.png") if p.stem.isdecimal()]
        last = max(grids, key=lambda path: int(path.stem), default=None)
        picture = "" if last is None else base64.b64encode(last.read_bytes()).decode()
        shown = f'<br><img alt="samples" src="data:image/png;base64,{picture}">' if picture else ""
        return f"<div>{html.escape(said)}{shown}</div>"


def train(
    recipe: str,
    data: str | Path,
    *,
    out: str | Path,
    size: str = "s",
    side: int | None = None,
    steps: int | None = None,
    minutes: float | None = None,
    batch: int | None = None,
    seed: int = 0,
    precision: str = "fp32",
    from_: Mapping[str, str | Path] | None = None,
    sample_every: int | None = None,
    save_every: int | None = None,
    quiet: bool = False,
    device: str | None = None,
    accumulate: int | None = None,
    held_out: float | None = None,
    patience: int | None = None,
    prompts: Sequence[str] | None = None,
    background: str = "white",
    allow_bad: float = 0.05,
    tune: bool = False,
    **dials: Any,
) -> Run:
    """Trains all stages of a recipe that `from_` does not give: a map of parts to runs (donors.py), which with `tune`
    are where training begins (tuning.py). `steps` are for each stage, `minutes` for all together; without either the
    recipe's plan decides. Dials that the data answer (classes, text) may be left out. `held_out` is a part of the set
    that is not trained on (held.py); `patience` ends a stage after so many looks at it that were none better. `prompts`
    are captions or classes of the sample grids; `background` and `allow_bad` are those of open_data."""
    dials, size, side = inherited(recipe, dials, from_ or {}, size, side)
    request = Request(
        recipe=recipe,
        data=str(data),
        data_at=absolute(data),
        dials=_spoken(recipe, dials, size, side),
        size=size,
        side=side,
        steps=steps,
        minutes=minutes,
        batch=batch,
        seed=seed,
        precision=precision,
        given={stage: str(path) for stage, path in (from_ or {}).items()},
        sample_every=sample_every,
        save_every=save_every,
        device=device,
        accumulate=accumulate,
        held_out=held_out,
        patience=patience,
        prompts=list(prompts) if prompts else None,
        background=background,
        allow_bad=allow_bad,
        tune=tune,
    )
    return _begin(Path(out), request, data, quiet)


def _begin(run: Path, request: Request, data: str | Path, quiet: bool) -> Run:
    """Opens and builds what is asked for, says and keeps it, and goes."""
    recipe = request.recipe
    if absolute(data) is not None and Path(data).exists() and run.exists() and Path(data).samefile(run):
        raise UsageError(
            f"{run} is the set itself. Choose another folder for --out; one inside the set is passed over."
        )
    accelerator = accelerator_for(request.precision, request.device)
    with _sole(run, accelerator):
        if accelerator.is_main_process and (run / "train.json").exists():
            raise UsageError(f"{run} holds a run already. Go on by `sfumato resume {run}`, or choose another folder.")
        source = _open_for(request, data)
        request = replace(
            request,
            dials=_answered(recipe, request.dials, source),
            side=source.side or None,  # texts have none
            channels=source.channels or request.channels,
        )
        system = _build(request)
        check_heard(recipe, system, source, request)
        system.classes = class_names_of(system, source)
        told, begun = take_given(system, request)
        request = replace(request, begun=begun)
        seen, held, how = split(source, request)
        if accelerator.is_main_process:
            facts = opening(request, system, seen, how, accelerator, estimate=not quiet)
            facts["from"] = told
            if not quiet:
                say(facts, source, request)
            about = {"fingerprint": source.fingerprint, "classes": source.labels, **source.report, "training": facts}
            about |= {"files": source.files} if source.files and len(source.files) <= MOST_FILES else {}
            write_json(run / "recipe.json", recipe_record(system))
            write_json(run / "data.json", about)
            _keep(run, request)
        return _go(run, request, system, seen, held, None, accelerator, quiet)


def resume(
    out: str | Path,
    *,
    data: str | Path | None = None,
    steps: int | None = None,
    minutes: float | None = None,
    quiet: bool = False,
) -> Run:
    """Goes on exactly where a run stopped; a finished run is returned as it is.

    `data` is where the same pictures lie now. With `steps` or `minutes` a run is trained longer. One that is finished
    trains its last stage so much further: from the averaged weights, with a new warm-up and a new decay of the rate
    over the added part. One that was stopped has so many steps more in each stage that is left, or minutes more in
    all, and its rate decays over the longer whole.
    """
    run = Path(out)
    if not run.exists():
        raise missing(str(out))
    if not (run / "train.json").exists():
        raise UsageError(f"{run} holds no run: there is no train.json in it.")
    request = read_request(run / "train.json")
    accelerator = accelerator_for(request.precision, request.device)
    with _sole(run, accelerator):
        if accelerator.is_main_process:
            recover(run)
        accelerator.wait_for_everyone()
        folder = latest(run)
        if folder is None and saved_steps(run):
            raise WeightsError(f"No checkpoint in {run / 'checkpoints'} verifies, so there is nothing to go on from.")
        source = open_again(run, data)
        recipe = read_recipe(run / "recipe.json")
        with seeded(derive(request.seed, "init"), torch.device("cpu")):
            system: Any = recipes.build(recipe["name"], **recipe["dials"])
        check_heard(recipe["name"], system, source, request)
        system.classes = class_names_of(system, source)
        state = None if folder is None else load_state(folder)
        if steps is not None or minutes is not None:
            request = further(request, system, state, steps, minutes)
            if accelerator.is_main_process:
                _keep(run, request)
        if state is None:
            take_given(system, request)
        seen, held = _looked_at(source, request, state)
        if state is not None and over(state[1], request) and not quiet:
            log.info("%s is finished. --steps or --minutes train it longer; to go on with other data:", run)
            log.info("  sfumato train %s DATA --out RUN --from all=%s", request.recipe, run)
        return _go(run, request, system, seen, held, state, accelerator, quiet)


def _looked_at(source: Set, request: Request, state: Any) -> tuple[Set, Set | None]:
    """The two parts of `split`; where nothing is left to train, the held-out one is not opened."""
    if state is not None and over(state[1], request):
        return source, None
    return split(source, request)[:2]


def _keep(run: Path, request: Request) -> None:
    write_json(run / "train.json", {"schema": SCHEMA, **asdict(request)})


def _sole(run: Path, accelerator: Accelerator) -> AbstractContextManager[None]:
    """The lock of the run folder, held by the main process for all."""
    return lock(run) if accelerator.is_main_process else nullcontext()


def _spoken(recipe: str, dials: Mapping[str, Any], size: str, side: int | None) -> dict[str, Any]:
    """The dials that the user turned, `size` and `side` among them where the recipe has them."""
    known = recipes.RECIPES[recipe].dials
    turned = {"size": size} | ({} if side is None else {"side": side})
    for name in turned:
        if name == "side" and name not in known:
            raise UsageError(f"{recipe} has no side to choose.")
    return {name: value for name, value in turned.items() if name in known} | dict(dials)


def _open_for(request: Request, data: str | Path) -> Set:
    """The pictures, as large and as colourful as the recipe's own, which a build without memory tells; grey ones stay
    grey where the recipe leaves the channels open."""
    recipe, dials = request.recipe, request.dials
    with torch.random.fork_rng([]), torch.device("meta"):
        system = recipes.build(recipe, **dials)
    refuse_giants(recipe, system)
    look = {"background": request.background, "allow_bad": request.allow_bad}
    space = system.data
    if not isinstance(space, Grid):
        source = open_data(data, side=dials.get("side"), **look)  # type: ignore[arg-type]
        refuse_unfit(recipe, system, source)
        return source
    source = open_data(data, side=space.width, channels=space.channels, **look)  # type: ignore[arg-type]
    refuse_unfit(recipe, system, source)
    free = "channels" in recipes.RECIPES[recipe].dials and "channels" not in dials
    modes = set(source.report["modes"])
    if free and modes and modes <= GREY:
        return open_data(data, side=space.width, channels=1, **look)  # type: ignore[arg-type]
    return source


def _answered(recipe: str, dials: Mapping[str, Any], source: Set) -> dict[str, Any]:
    """The dials, with what the data answer for a user who left it out: captions, or else the number of classes."""
    known = recipes.RECIPES[recipe].dials
    found: dict[str, Any] = {"channels": source.channels} if "channels" in known else {}
    if "text" in known and source.has_text and "classes" not in dials:
        found["text"] = True
    elif "classes" in known and source.labels and "text" not in dials:
        found["classes"] = len(source.labels)
    return found | dict(dials)


def _build(request: Request) -> Any:
    with seeded(derive(request.seed, "init"), torch.device("cpu")):
        return recipes.build(request.recipe, **request.dials)


def _go(
    run: Path,
    request: Request,
    system: Any,
    source: Set,
    held: Set | None,
    state: Any,
    accelerator: Accelerator,
    quiet: bool,
) -> Run:
    with Stop(run) as stop, watched(accelerator.num_processes, run):
        course = Course(run, request, system, source, stop, accelerator, quiet, held)
        stages = Stages(course)
        if state is not None:
            stages.restore(*state)
            if accelerator.is_main_process:
                rewind(run, course.offset + stages.stage_step)
        stages.go()
    return Run(run, course.offset, course.loss, course.spent)
