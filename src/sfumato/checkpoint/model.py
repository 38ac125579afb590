"""A model on disk: recipe.json rebuilds, weights.safetensors fill, manifest.json vouches. No code, no pickle.

A recipe names a function of our own table and its dials, so a file can choose what is built but never bring its own
code. Loading compares the file's header with the recipe built on the meta device before anything is allocated, and
fills all tensors or none. Names, shapes and dtypes have to be the recipe's own: weights are never converted unasked,
since int32 or bool in place of float32 would be drawn from as if they had been learned. Where a `dtype` is asked for,
one floating dtype stands for another.

A tensor that stands under several names (tied weights, a tower that two systems use) is stored once, under the first.
Files of before have it under all of them, and are read as well.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sfumato.checkpoint.disk import (
    MANIFEST,
    check_schema,
    encode_json,
    read_json,
    refuse_links,
    verify,
    write_folder,
)
from sfumato.checkpoint.tensors import Entry, encode_tensors, read_header, read_tensors, size_in_bytes
from sfumato.core.errors import SfumatoError, UnknownName, UsageError, WeightsError
from sfumato.version import VERSION

RECIPE, WEIGHTS = "recipe.json", "weights.safetensors"
SCHEMA = 1  # of recipe.json
SHOWN = 10  # how many misfitting tensors an error lists

Build = Callable[..., nn.Module]


def recipe_record(system: Any) -> dict[str, Any]:
    """What recipe.json holds of a system: {"name", "dials", "classes", "schema", "versions"}, `classes` being the names
    of its labels where it has any."""
    recipe, classes = system.recipe, list(getattr(system, "classes", ()))
    return {
        **({"classes": classes} if classes else {}),
        "name": recipe["name"],
        "dials": dict(recipe["dials"]),
        "schema": SCHEMA,
        "versions": {"sfumato": VERSION, "torch": torch.__version__, "python": platform.python_version()},
    }


def read_recipe(path: Path) -> dict[str, Any]:
    """recipe.json, checked; `path` is the file."""
    record = read_json(path)
    check_schema(record, path, SCHEMA)
    if not isinstance(record.get("name"), str) or not isinstance(record.get("dials"), dict):
        raise WeightsError(f"{path} is damaged: it names no recipe, or has no dials.")
    return record


def class_names(recipe: Mapping[str, Any], path: Path) -> list[str]:
    """The names of the labels, which `recipe`, read from `path`, holds. Runs of before 0.2 have them in RUN/data.json
    only, which is looked at where the recipe has none."""
    names = recipe.get("classes")
    if names is None and not recipe["dials"].get("classes"):
        return []  # it hears no labels
    if names is None:
        beside = [folder / "data.json" for folder in (path.parent, path.parent.parent)]
        place = next((place for place in beside if place.is_file() and (place.parent / "train.json").is_file()), None)
        names = [] if place is None else read_json(place).get("classes") or []
        path = place or path
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise WeightsError(f"{path} is damaged: `classes` is no list of names.")
    return names


def save_model(folder: str | Path, system: nn.Module, average: Mapping[str, Tensor] | None = None) -> None:
    """Writes the three files, all or none. `average` maps names of parameters to the values to store instead."""
    if not getattr(system, "recipe", None):
        raise WeightsError(
            f"This {type(system).__name__} was composed by hand, so no recipe can rebuild it. "
            "Build it by sfumato.build, or keep its state_dict yourself."
        )
    tensors, _ = state_once(system)
    if average:
        named = dict(system.named_parameters(remove_duplicate=False))
        values = {id(named[name]): value for name, value in average.items()}  # tied parameters have several names
        tensors |= {name: values[id(p)] for name, p in named.items() if id(p) in values and name in tensors}
    files = {
        RECIPE: [encode_json(recipe_record(system))],
        WEIGHTS: encode_tensors(tensors, {"format": "pt", "recipe": str(system.recipe["name"])}),  # type: ignore[index]
    }
    write_folder(Path(folder), files, size_in_bytes(tensors))


def check_model(folder: str | Path, build: Build | None = None, dtype: torch.dtype | None = None) -> dict[str, Any]:
    """recipe.json of a model folder or a run folder, after everything that can be said of it without memory for it:
    plain files, a schema and a recipe known here, every tensor of the recipe in its shape and dtype, every byte as the
    manifest says. WeightsError else."""
    folder = _model_folder(Path(folder))
    refuse_links(folder, (RECIPE, WEIGHTS))
    recipe, weights = read_recipe(folder / RECIPE), folder / WEIGHTS
    if build is None:
        _refuse_unknown(recipe, folder / RECIPE)
    header, metadata = read_header(weights)
    with torch.device("meta"):
        expected, others = state_once(_built(recipe, folder, build))
    for name, first in others.items():
        if name in header and header[name] == header.get(first):  # stored twice
            del header[name]
    compare(header, expected, weights, recipe["name"], metadata.get("recipe"), dtype)
    if (folder / MANIFEST).exists():  # a model handed on by others may come without one
        verify(folder, (RECIPE, WEIGHTS))
    return recipe


def load_model(folder: str | Path, build: Build | None = None, dtype: torch.dtype | None = None) -> nn.Module:
    """The system of a model folder or a run folder, in eval mode on the CPU; WeightsError when it cannot be trusted.
    Its floating numbers are of the `dtype`, or of the recipe's own where none is asked for."""
    folder = _model_folder(Path(folder))
    recipe = check_model(folder, build, dtype)
    tensors = read_tensors(folder / WEIGHTS)
    system = _built(recipe, folder, build)
    _, others = state_once(system)
    system.load_state_dict(tensors | {name: tensors[first] for name, first in others.items()}, strict=True)
    if hasattr(system, "classes"):
        system.classes = class_names(recipe, folder / RECIPE)  # type: ignore[assignment]
    return system.eval() if dtype is None else system.to(dtype).eval()


def _built(recipe: Mapping[str, Any], folder: Path, build: Build | None) -> nn.Module:
    """What the recipe builds; WeightsError where it refuses its dials."""
    name = recipe["name"]
    try:
        with torch.random.fork_rng():  # building draws initial weights; the caller's generator is not ours to move
            return (build or _recipes_build)(name, **recipe["dials"])
    except (TypeError, UsageError) as error:
        if isinstance(error, SfumatoError) and not isinstance(error, UsageError):
            raise
        raise WeightsError(
            f"{folder / RECIPE} cannot be built: the recipe {name!r} refuses its dials ({error})."
        ) from None


def _refuse_unknown(recipe: Mapping[str, Any], path: Path) -> None:
    """WeightsError where no recipe of ours has the name that recipe.json, read from `path`, says."""
    from sfumato.recipes import RECIPES

    try:
        RECIPES[recipe["name"]]
    except UnknownName as error:
        versions = recipe.get("versions")
        by = versions.get("sfumato") if isinstance(versions, dict) else None
        raise WeightsError(
            f"{path} names the recipe {recipe['name'][:60]!r}, which sfumato {VERSION} does not have: it was made by "
            f"{f'sfumato {by}' if isinstance(by, str) and by != VERSION else 'a newer sfumato'}, or is not ours. "
            f"Upgrade sfumato, or look where it came from. {str(error).split('. ', 1)[-1]}"
        ) from None


def _recipes_build(name: str, **dials: Any) -> nn.Module:
    from sfumato.recipes import build

    return build(name, **dials)


def state_once(system: nn.Module) -> tuple[dict[str, Tensor], dict[str, str]]:
    """(every tensor of the state by its first name, {any other name of one: its first})."""
    first: dict[int, str] = {}
    state, others = {}, {}
    for name, value in system.state_dict(keep_vars=True).items():
        if not isinstance(value, Tensor):
            raise TypeError(f"{name!r} of the state is a {type(value).__name__}; only tensors can be stored.")
        if id(value) in first:
            others[name] = first[id(value)]
        else:
            first[id(value)] = name
            state[name] = value.detach()
    return state, others


def _model_folder(folder: Path) -> Path:
    if (folder / WEIGHTS).exists():
        return folder
    for inner in (folder / "model", folder / ".old-model"):  # the second after a death between two renames
        if (inner / WEIGHTS).exists():
            return inner
    if (folder / "checkpoints").is_dir():
        raise WeightsError(
            f"{folder} holds no model yet: its training was stopped. Run `sfumato resume {folder}` first."
        )
    raise WeightsError(f"{folder} holds no model: there is no {WEIGHTS} in it.")


def compare(
    found: Mapping[str, Entry],
    expected: Mapping[str, Tensor],
    path: Path,
    name: str,
    stored: object = None,
    dtype: torch.dtype | None = None,
) -> None:
    """Raises WeightsError, with at most ten examples, unless the file has exactly the tensors of the recipe `name`.

    `stored` is the recipe that the file says it was written by; `dtype`, where one was asked for, lets floating dtypes
    differ.
    """
    missing = [f"missing {n}" for n in expected if n not in found]
    unexpected = [f"unexpected {n}" for n in found if n not in expected]
    reshaped = [
        f"reshaped {n}: {found[n].shape}, not {tuple(t.shape)}"
        for n, t in expected.items()
        if n in found and found[n].shape != tuple(t.shape)
    ]
    retyped = [
        f"retyped {n}: {_word(found[n].dtype)}, not {_word(t.dtype)}"
        for n, t in expected.items()
        if n in found and not _stands_for(found[n].dtype, t.dtype, dtype is not None)
    ]
    faults = missing + unexpected + reshaped + retyped
    if faults:
        said = (
            f"holds weights of {stored if isinstance(stored, str) else 'an unnamed model'!r}, and they are not "
            f"those of {name!r}, which {RECIPE} beside it names; nothing was loaded."
        )
        if faults == retyped:
            floating = all(found[n].dtype.is_floating_point for n, t in expected.items() if t.is_floating_point())
            said = f"holds numbers of another kind than {name!r} has; nothing was loaded. " + (
                "To have them converted, say so: sfumato.load(…, dtype=torch.float32)."
                if floating
                else "They are not what was learned: take the file that sfumato wrote."
            )
        more = f"\n  … and {len(faults) - SHOWN} more" if len(faults) > SHOWN else ""
        raise WeightsError(f"{path} {said}" + "".join(f"\n  {fault}" for fault in faults[:SHOWN]) + more)


def _stands_for(found: torch.dtype, expected: torch.dtype, converted: bool) -> bool:
    return found == expected or (converted and found.is_floating_point and expected.is_floating_point)


def _word(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
