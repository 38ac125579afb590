"""A trained system by its name: a folder on this machine, or a repository of the Hugging Face hub.

    hub:owner/name    the hub, and nothing else
    a path that is    that run folder, or the `model` folder in it
    owner/name        the hub, unless it looks like something of this machine (`looks_local`): its first word is a
                      folder here, or nearly `runs`, `out`, `models` …; its last ends like a file; a run near is called
                      almost so. Such a name is a path that was mistyped, and is answered with the nearest run
    all else          a path that was mistyped

A path that was mistyped never asks the network. Where HF_HUB_OFFLINE is set, or with `local_files_only`, nothing does:
the hub's cache is looked at, and that is all.

Pushed are recipe.json, weights.safetensors, manifest.json and the model card, README.md; the first three are fetched.
What comes from the hub is checked as what comes from the disk is: a recipe of our own table, the manifest's hashes,
shapes and dtypes; never code, never a pickle. Importing this file gives whatever is trained `save_pretrained`,
`from_pretrained` and `push_to_hub`, since systems know nothing of disks. The hub's own mixin is not theirs: it wants to
be the class's constructor and writes a config.json beside our recipe.
"""

from __future__ import annotations

import difflib
import itertools
import os
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from sfumato.checkpoint.card import card
from sfumato.checkpoint.disk import MANIFEST
from sfumato.checkpoint.model import RECIPE, WEIGHTS, load_model, save_model
from sfumato.core.errors import Misfit, UsageError, WeightsError
from sfumato.systems import Cascade, Classifier, System

FILES = (RECIPE, WEIGHTS, MANIFEST)
CARD = "README.md"
REPOSITORY = re.compile(r"[\w.-]{1,96}/[\w.-]{1,96}")
FOLDERS = ("run", "runs", "out", "output", "outputs", "model", "models", "checkpoints", "results", "experiments", "tmp")
LIKE = 0.75  # of the letters: one exchanged or left out in a word of four
SEEN = 2000  # folders that are looked at for the nearest run


def load(
    run: str | Path,
    *,
    revision: str | None = None,
    cache_dir: str | Path | None = None,
    local_files_only: bool = False,
    token: str | None = None,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
) -> Any:
    """The trained system (averaged weights, eval mode) of a run folder or a hub repository, on the CPU or on `device`.

    `dtype` converts its floating numbers; unasked, they are the recipe's own. `revision` is a branch, a tag or a commit
    of a repository; `cache_dir`, `local_files_only` and `token` are as in huggingface_hub.
    """
    options = {"revision": revision, "cache_dir": cache_dir, "local_files_only": local_files_only, "token": token}
    folder = locate(run, **options)  # type: ignore[arg-type]
    system = load_model(folder, dtype=_dtype(dtype))
    if (folder / "train.json").is_file():
        system.run = folder  # type: ignore[assignment]  # its data and scores are told when it is pushed
    return system if device is None else system.to(device)


def locate(
    run: str | Path,
    *,
    revision: str | None = None,
    cache_dir: str | Path | None = None,
    local_files_only: bool = False,
    token: str | None = None,
) -> Path:
    """The folder that `run` names, after fetching it where it is a repository of the hub; UsageError where it names
    nothing, with the nearest run."""
    text = str(run)
    options: dict[str, Any] = {"revision": revision, "cache_dir": cache_dir, "token": token}
    said = {name: value for name, value in options.items() if value is not None}
    if local_files_only or offline():
        said["local_files_only"] = True
    if text.startswith("hub:"):
        return _fetched(text.removeprefix("hub:"), said)
    path = Path(run).expanduser()
    if path.exists():
        return path
    if isinstance(run, str) and not looks_local(text):
        try:
            return _fetched(text, said)
        except WeightsError:
            if "local_files_only" not in said:
                raise
    raise missing(text)


def offline() -> bool:
    """Whether the hub's own variables forbid the network, as they are now: the library reads them at its import."""
    names = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
    return any(os.environ.get(name, "").upper() in ("1", "ON", "YES", "TRUE") for name in names)


def looks_local(text: str) -> bool:
    """Whether a name that is no path here was meant as one, by the rule above."""
    if not REPOSITORY.fullmatch(text) or text.startswith((".", "-")):
        return True
    first, last = text.split("/")
    return (
        Path(first).exists()
        or bool(difflib.get_close_matches(first.lower(), FOLDERS, n=1, cutoff=LIKE))
        or re.search(r"\.[A-Za-z][A-Za-z0-9]*$", last) is not None
        or bool(difflib.get_close_matches(text, _runs_near(Path(text)), n=1, cutoff=LIKE))
    )


def missing(text: str) -> UsageError:
    """What to answer where no run is called so."""
    near = _runs_near(Path(text).expanduser())
    names = {Path(run).name: run for run in near}
    close = difflib.get_close_matches(text, near, n=1, cutoff=0.5)
    close = close or [names[name] for name in difflib.get_close_matches(Path(text).name, names, n=1, cutoff=0.5)]
    if close:
        advice = f"Did you mean {close[0]!r}?"
    elif near:
        advice = f"Runs near: {', '.join(near[:5])}{' …' if len(near) > 5 else ''}."
    else:
        advice = "Name a run folder, or a repository as hub:owner/name."
    return UsageError(f"There is no run at {text}. {advice}")


def _runs_near(path: Path) -> list[str]:
    """Folders beside where `path` would be, and runs here and one folder below; as they would be typed."""
    beside = (folder for folder in _folders(path.parent) if folder.name != "model")
    here = itertools.chain.from_iterable((folder, *_folders(folder)) for folder in _folders(Path()))
    runs = (folder for folder in here if (folder / RECIPE).is_file() or (folder / "train.json").is_file())
    return list(dict.fromkeys(str(folder) for folder in itertools.islice(itertools.chain(beside, runs), SEEN)))


def _folders(path: Path) -> Iterator[Path]:
    try:
        found = sorted(p for p in itertools.islice(path.iterdir(), SEEN) if p.is_dir() and not p.name.startswith("."))
    except OSError:  # none, or not ours to read
        return
    yield from found


def _fetched(repository: str, options: dict[str, Any]) -> Path:
    """The folder of a repository's three files, in the hub's own cache."""
    _refuse_no_repository(repository)
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(repository, allow_patterns=list(FILES), **options))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError) as error:
        if "local_files_only" in options:
            why = "HF_HUB_OFFLINE is set" if offline() else "only local files may be used"
            raise WeightsError(
                f"{repository} is not in the hub's cache, and {why}. Fetch it once with the network, or name a folder."
            ) from error
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise WeightsError(f"There is no folder {repository}, and the hub did not hand it out: {reason}") from error


def _refuse_no_repository(repository: str) -> None:
    if not REPOSITORY.fullmatch(repository):
        raise UsageError(f"A hub repository is called owner/name, not {repository!r}.")


def _dtype(asked: str | torch.dtype | None) -> torch.dtype | None:
    """A floating dtype by itself or by its name; UsageError else."""
    found = getattr(torch, asked.removeprefix("torch."), None) if isinstance(asked, str) else asked
    if found is None and asked is None:
        return None
    if not isinstance(found, torch.dtype) or not found.is_floating_point:
        raise UsageError(f"dtype is float32, float16, bfloat16 or float64, not {asked!r}.")
    return found


def save_pretrained(system: Any, folder: str | Path) -> None:
    """Writes recipe.json, weights.safetensors and manifest.json into `folder`, all or none."""
    save_model(folder, system)


def from_pretrained(
    kind: type,
    path_or_repo: str | Path,
    *,
    revision: str | None = None,
    cache_dir: str | Path | None = None,
    local_files_only: bool = False,
    token: str | None = None,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
) -> Any:
    """As `load`; raises Misfit when what is there is not of this class."""
    system = load(
        path_or_repo,
        revision=revision,
        cache_dir=cache_dir,
        local_files_only=local_files_only,
        token=token,
        device=device,
        dtype=dtype,
    )
    if not isinstance(system, kind):
        raise Misfit(f"{path_or_repo} holds a {type(system).__name__}, not a {kind.__name__}. Use sfumato.load.")
    return system


def push_to_hub(
    system: Any,
    repository: str,
    *,
    private: bool = False,
    token: str | None = None,
    license: str | None = None,
    data_license: str | None = None,
) -> str:
    """Uploads the model and its card as one commit; returns its address. The repository is made if there is none.

    `license` is the model's and `data_license` that of the pictures it has seen; of a set that the package ships it is
    known. A system that `load` took from a run folder tells its data and scores on the card.
    """
    _refuse_no_repository(repository)
    if offline():
        raise UsageError(
            "HF_HUB_OFFLINE is set, so nothing is pushed. Unset it, or keep the folder of save_pretrained."
        )
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError

    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "model"
        save_model(folder, system)
        text = card(system, repository, getattr(system, "run", None), license, data_license)
        (folder / CARD).write_text(text, encoding="utf-8")
        try:
            api = HfApi(token=token)
            api.create_repo(repository, private=private, exist_ok=True)
            said = f"{system.recipe['name']}, by sfumato"
            return str(api.upload_folder(repo_id=repository, folder_path=folder, commit_message=said))
        except (HfHubHTTPError, LocalTokenNotFoundError, OSError, ValueError) as error:
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise WeightsError(
                f"The hub did not take {repository}: {reason} Log in by `hf auth login`, or give a token that writes."
            ) from error


for _kind in (System, Cascade, Classifier):
    _kind.save_pretrained = save_pretrained  # type: ignore[union-attr, attr-defined]
    _kind.push_to_hub = push_to_hub  # type: ignore[union-attr, attr-defined]
    _kind.from_pretrained = classmethod(from_pretrained)  # type: ignore[union-attr, attr-defined]
