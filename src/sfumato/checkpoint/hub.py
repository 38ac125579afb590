"""A trained system by its name: a folder on this machine, or a repository of the Hugging Face hub.

    "runs/ldm"            a run folder, or the `model` folder in it
    "owner/name"          a repository, where no folder has that path; "hub:owner/name" says so outright

Three files travel: recipe.json, weights.safetensors, manifest.json. What comes from the hub is checked as what comes
from the disk is: a recipe of our own table, the manifest's hashes, the shapes; never code, never a pickle. Importing
this file gives System and Cascade `save_pretrained`, `from_pretrained` and `push_to_hub`, since systems know nothing of
disks.
"""

from __future__ import annotations

import re
import tempfile
from pathlib import Path
from typing import Any

from sfumato.checkpoint.disk import MANIFEST
from sfumato.checkpoint.model import RECIPE, WEIGHTS, load_model, save_model
from sfumato.core.errors import Misfit, UsageError, WeightsError
from sfumato.core.registry import nearest
from sfumato.systems import Cascade, System

FILES = (RECIPE, WEIGHTS, MANIFEST)
REPOSITORY = re.compile(r"[\w.-]{1,96}/[\w.-]{1,96}")


def load(run: str | Path) -> Any:
    """The trained system (averaged weights, eval mode, on the CPU) of a run folder or a hub repository."""
    text = str(run)
    if text.startswith("hub:"):
        return load_model(_download(text.removeprefix("hub:")))
    path = Path(run).expanduser()
    if path.exists():
        return load_model(path)
    if isinstance(run, str) and REPOSITORY.fullmatch(text) and not path.parent.exists():
        return load_model(_download(text))
    beside = [str(path.parent / p.name) for p in path.parent.iterdir() if p.is_dir()] if path.parent.is_dir() else []
    close = nearest(text, beside)
    raise UsageError(f"There is no run at {text}. {close if close.startswith('Did') else 'Name a run folder.'}")


def _download(repository: str) -> Path:
    """The folder of a repository's three files, in the hub's own cache."""
    if not REPOSITORY.fullmatch(repository):
        raise UsageError(f"A hub repository is called owner/name, not {repository!r}.")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(repository, allow_patterns=list(FILES)))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise WeightsError(f"There is no folder {repository}, and the hub did not hand it out: {reason}") from error


def save_pretrained(system: Any, folder: str | Path) -> None:
    """Writes recipe.json, weights.safetensors and manifest.json into `folder`, all or none."""
    save_model(folder, system)


def from_pretrained(kind: type, path_or_repo: str | Path) -> Any:
    """As `load`; raises Misfit when what is there is not of this class."""
    system = load(path_or_repo)
    if not isinstance(system, kind):
        raise Misfit(f"{path_or_repo} holds a {type(system).__name__}, not a {kind.__name__}. Use sfumato.load.")
    return system


def push_to_hub(system: Any, repository: str, *, private: bool = False, token: str | None = None) -> str:
    """Uploads the three files as one commit; returns its address. The repository is made if there is none."""
    if not REPOSITORY.fullmatch(repository):
        raise UsageError(f"A hub repository is called owner/name, not {repository!r}.")
    from huggingface_hub import HfApi

    api = HfApi(token=token)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "model"
        save_model(folder, system)
        api.create_repo(repository, private=private, exist_ok=True)
        said = f"{system.recipe['name']}, by sfumato"
        return str(api.upload_folder(repo_id=repository, folder_path=folder, commit_message=said))


for _kind in (System, Cascade):
    _kind.save_pretrained = save_pretrained  # type: ignore[union-attr, attr-defined]
    _kind.push_to_hub = push_to_hub  # type: ignore[union-attr, attr-defined]
    _kind.from_pretrained = classmethod(from_pretrained)  # type: ignore[union-attr, attr-defined]
