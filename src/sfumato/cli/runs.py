"""What verbs share: opening a run, reading pictures for it, writing pictures with what made them."""

from __future__ import annotations

import inspect
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sfumato.cli.console import note
from sfumato.core.classes import class_number
from sfumato.core.errors import DataError, UsageError

MOST_MAKERS = 8  # recipes that an error names
PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff")  # that are taken out of a folder
GRIDS = (".png", ".jpg", ".jpeg")  # what --out may end in for one file
OTHER = (".gif", ".webp", ".bmp", ".tif", ".tiff", ".avif", ".heic", ".pdf", ".svg", ".mp4", ".npz", ".safetensors")


def best_device(asked: str | None) -> Any:
    """The device asked for, or the fastest there is."""
    import torch

    if asked is None:
        return torch.device(
            "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
        )
    try:
        device = torch.device(asked)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UsageError(f"--device {asked} cannot be used here: {str(error).splitlines()[0]}") from None
    return device


def open_run(run: str, device: str | None = None, ability: str | None = None) -> Any:
    """The trained system of a run folder or of the hub, on its device, in eval mode; UsageError where it lacks an
    ability that a verb needs."""
    from sfumato.checkpoint.hub import load

    system = load(run).to(best_device(device))
    if ability is not None:
        able(system, run, ability)
    return system


def able(system: Any, run: str, ability: str) -> None:
    """UsageError where a run cannot do what a verb asks for, with what can."""
    from sfumato.cli.index import index
    from sfumato.systems.abilities import ABILITIES, abilities, in_words

    found = abilities(system)
    if ability in found:
        return
    name = getattr(system, "recipe", {}).get("name", "this")
    makers = [row["name"] for row in index()["recipes"] if ability in row["can"]]
    more = ", …" if len(makers) > MOST_MAKERS else ""
    advice = f"Recipes that can: {', '.join(makers[:MOST_MAKERS])}{more}." if makers else "No recipe can yet."
    raise UsageError(f"{run} is a {name}: it can {in_words(found)}, but not {ABILITIES[ability][1]}. {advice}")


def pictures_in(paths: Sequence[str]) -> list[str]:
    """The files, with the pictures of a folder, in order, in the place of the folder."""
    found: list[str] = []
    for path in paths:
        if not Path(path).is_dir():
            found.append(path)
            continue
        inside = [p for p in sorted(Path(path).rglob("*")) if p.is_file() and p.suffix.lower() in PICTURES]
        if not inside:
            raise DataError(f"There is no picture in {path}.")
        found += map(str, inside)
    return found


def record(run: str, name: str) -> dict[str, Any]:
    """RUN/data.json, RUN/scores.json; {} where there is none."""
    path = Path(run) / name
    if not path.is_file():
        return {}
    from sfumato.report.opened import record_of

    return record_of(path)


def image_space(system: Any) -> tuple[int, int, int]:
    """(C, H, W) of the pictures that it reads or draws; UsageError where it reads none."""
    if "image" not in system.entries:
        raise UsageError("This run reads and draws texts, so there is no picture that it could take or make.")
    return system.data.shape


# ---- conditions ----


def conditions(
    system: Any, run: str, texts: list[str] | None, labels: list[str] | None, n: int
) -> tuple[dict[str, Any], list[str]]:
    """(given, prompts): n rows, the values taken in turn; prompts are what to write beside the pictures."""
    import torch

    from sfumato.metrics.evaluation import condition_keys

    given: dict[str, Any] = {}
    prompts = [""] * n
    keys = condition_keys(system)
    for flag, key, values in (("--text", "text", texts), ("--label", "label", labels)):
        if values and key not in keys:
            has = " and ".join(keys) if keys else "nothing"
            raise UsageError(f"This run is conditioned on {has}, so it cannot listen to {flag}.")
    if labels:
        numbers = [class_number(word, system.classes, class_count(system)) for word in labels]
        given["label"] = torch.tensor([numbers[i % len(numbers)] for i in range(n)])
        prompts = [labels[i % len(labels)] for i in range(n)]
    if texts:
        given["text"] = [texts[i % len(texts)] for i in range(n)]
        prompts = [f"{prompt}: {text}" if prompt else text for prompt, text in zip(prompts, given["text"])]
    return given, prompts


def class_count(system: Any) -> int | None:
    """How many classes the system is told apart; None where it hears no labels."""
    return getattr(system, "recipe", {}).get("dials", {}).get("classes") or None


def default_steps(system: Any) -> int | None:
    """How many steps the prior takes when none are asked for; None where its sampler has no steps."""
    prior = getattr(getattr(system, "last", system), "prior", None)
    if prior is None:
        return None
    parameter = inspect.signature(prior.sample).parameters.get("steps")
    if parameter is None:
        return None
    steps = getattr(prior, "steps", None) if parameter.default is None else parameter.default  # None: as it was built
    return steps if isinstance(steps, int) else None


# ---- pictures ----


def refuse_vectors(system: Any, run: str) -> None:
    """UsageError where what the run draws is no picture, but what its codec encodes and does not decode."""
    codec = getattr(getattr(system, "last", system), "codec", None)
    if codec is not None and not codec.decodes:
        raise UsageError(
            f"What {run} draws are vectors of {codec.space}, which no picture can be made of by itself. Draw from a "
            "cascade, whose next system is conditioned on them; in Python, `sample` gives the vectors."
        )


def read_pictures(paths: Sequence[str], system: Any) -> Any:
    """Files → (n, C, H, W) in [−1, 1] as the system sees them: centred square, resampled to its side, which is said."""
    import torch

    from sfumato.data.decode import picture, read
    from sfumato.data.fit import fit

    channels, side = image_space(system)[0], image_space(system)[-1]
    images, others = [], []
    for path in paths:
        if not Path(path).exists():
            raise DataError(f"There is no picture at {path}.")
        image, _ = picture(read(path), path, channels, "white")
        if image.size != (side, side):
            others.append(f"{path} is {image.width}×{image.height}")
        images.append(torch.from_numpy(fit(image, side).copy()).float() / 127.5 - 1)
    if others:
        more = f", and {len(others) - 1} more are of another size than the run's" if len(others) > 1 else ""
        note(f"{others[0]}{more}; the middle square is seen at {side}×{side}.")
    return torch.stack(images)


def one_file(out: str) -> bool:
    """Whether --out names a file for one grid, not a folder; UsageError for a kind of file that is not written."""
    suffix = Path(out).suffix.lower()
    if suffix in (*GRIDS, ""):
        return suffix != ""
    if suffix in OTHER and not Path(out).is_dir():
        raise UsageError(f"--out {out}: a grid ends in {', '.join(GRIDS)}; anything else is a folder of PNG files.")
    return False


def write_pictures(
    images: Any,
    out: str,
    names: Sequence[str],
    facts: Sequence[dict[str, Any]],
    captions: Sequence[str] | None = None,
    columns: int | None = None,
) -> list[str]:
    """One grid when `out` ends in .png or .jpg, else a folder with NAME.png each. `facts` become text chunks, of a JPEG
    its comment. `images` are a tensor (n, C, H, W) or a list of PIL's."""
    from sfumato.checkpoint import write_file
    from sfumato.report import pictures

    shown = list(images) if isinstance(images, list) else [pictures.picture(image) for image in images]
    if one_file(out):
        sheet = pictures.grid(shown, captions if captions and any(captions) else None, columns)
        encode = pictures.png if out.lower().endswith(".png") else pictures.jpeg
        write_file(Path(out), encode(sheet, joined(facts)))
        return [out]
    written = []
    for image, name, fact in zip(shown, names, facts):
        path = Path(out) / f"{name}.png"
        write_file(path, pictures.png(image, fact))
        written.append(str(path))
    return written


def joined(facts: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The facts of several pictures for one grid: what all share as it is, what differs as a JSON list."""
    shared: dict[str, Any] = {}
    for key in facts[0]:
        values = [fact[key] for fact in facts]
        same = all(value == values[0] for value in values)
        shared[key] = values[0] if same else json.dumps(values, ensure_ascii=False)
    return shared


def tell_written(paths: Sequence[str], out: str) -> None:
    note(f"Wrote {paths[0]}." if len(paths) == 1 else f"Wrote {len(paths)} pictures to {out}.")
