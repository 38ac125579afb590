"""The training state on disk: checkpoints/STEP with state.safetensors, state.json and manifest.json.

A new one is read back and verified before an older one goes, and one verified older one always stays, so bit rot in
the newest costs some steps and never the run.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from sfumato.checkpoint import disk
from sfumato.checkpoint.tensors import encode_tensors, read_tensors, size_in_bytes
from sfumato.core.errors import DiskError, WeightsError

SCHEMA = 1  # of state.json
FILES = ("state.json", "state.safetensors")
log = logging.getLogger("sfumato")


def steps(run: Path) -> list[int]:
    """The steps that a run folder has checkpoints of, damaged or not, newest first."""
    folder = run / "checkpoints"
    if not folder.is_dir():
        return []
    return sorted((int(p.name) for p in folder.iterdir() if p.is_dir() and p.name.isdecimal()), reverse=True)


def save_state(folder: Path, tensors: Mapping[str, Tensor], record: Mapping[str, Any]) -> None:
    """Writes RUN/checkpoints/STEP, verifies it, and removes what is older than one verified predecessor."""
    run, step = folder.parent.parent, int(folder.name)
    recover(run)
    files = {
        "state.json": [disk.encode_json({"schema": SCHEMA, **record})],
        "state.safetensors": encode_tensors(tensors),
    }
    disk.write_folder(folder, files, size_in_bytes(tensors))
    try:
        disk.verify(folder, FILES)
    except WeightsError as error:
        raise DiskError(
            f"{folder} does not read back as it was written: {error} The older checkpoints stay."
        ) from error
    with disk.disk_errors(folder, 0):
        _prune(run, step)


def recover(run: Path) -> None:
    """Puts right what a killed saver left behind. Only for the holder of the run's lock: no other saver is alive."""
    folder = run / "checkpoints"
    if not folder.is_dir():
        return
    with disk.disk_errors(folder, 0):
        for path in sorted(folder.iterdir()):
            if path.name.startswith(".old-"):
                disk.restore(folder / path.name.removeprefix(".old-"))
            if path.exists() and path.name.startswith((".new-", ".old-", ".gone-")):
                disk.remove_folder(path)


def _prune(run: Path, newest: int) -> None:
    """Of the others, the newest that verifies stays; when none does, all stay, since none can vouch for another."""
    others = [run / "checkpoints" / str(step) for step in steps(run) if step != newest]
    spare = next((folder for folder in others if not fault(folder)), None)
    if spare is not None:
        for folder in others:
            if folder != spare:
                disk.remove_folder(folder)


def fault(folder: Path) -> str:
    """What is wrong with a checkpoint; empty when nothing is."""
    try:
        disk.verify(folder, FILES)
    except WeightsError as error:
        return str(error)
    return ""


def load_state(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """(tensors, record) of one verified checkpoint."""
    disk.verify(folder, FILES)
    record = disk.read_json(folder / "state.json")
    disk.check_schema(record, folder / "state.json", SCHEMA)
    return read_tensors(folder / "state.safetensors", finite=False), record


def latest(run: Path, fits: Callable[[Mapping[str, Any]], bool] = lambda record: True) -> Path | None:
    """The newest checkpoint that verifies, and whose record `fits`; a damaged one is skipped over, with a warning.
    None: there is none."""
    for step in steps(run):
        folder = run / "checkpoints" / str(step)
        reason = fault(folder)
        if not reason:
            if fits(disk.read_json(folder / "state.json")):
                return folder
            continue
        log.warning("The checkpoint of step %d is skipped, and the one before is taken: %s", step, reason)
    return None


__all__ = ["fault", "latest", "load_state", "recover", "save_state", "steps"]
