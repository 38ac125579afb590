"""A1, A3: whatever moment the saver dies, a whole checkpoint is there; and what is renamed was flushed before."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from deaths import count_calls, die_at
from torch import nn

from sfumato.checkpoint import disk, latest, load_model, load_state, recover, save_model, save_state

SAVES = {"a newer step": 30, "the same step again": 20}


def state_of(value: float) -> dict[str, torch.Tensor]:
    return {"weights/a": torch.full((50, 3), value), "step": torch.tensor(value), "none": torch.zeros(0)}


def save(run: Path, step: int, value: float) -> None:
    save_state(run / "checkpoints" / str(step), state_of(value), {"value": value})


def value_of(run: Path) -> float:
    """What the newest checkpoint says, after every part of it was found to agree."""
    folder = latest(run)
    assert folder is not None, "the run lost its checkpoints"
    tensors, record = load_state(folder)
    expected = state_of(record["value"])
    assert tensors.keys() == expected.keys()
    assert all(torch.equal(tensors[name], expected[name]) for name in expected)
    return record["value"]


@pytest.mark.parametrize("torn", [False, True])
@pytest.mark.parametrize("step", SAVES.values(), ids=SAVES.keys())
def test_a1_a_checkpoint_survives_death_at_every_call(tmp_path, monkeypatch, step, torn):
    """Exhaustive: one child for each mutating call of the save. Old or new, never neither, never a mixture; and the
    next save cleans up. Before: steps 10 and 20; values are the step, but 99 for what the dying child saves."""

    def fresh(name: str) -> Path:
        run = tmp_path / name
        save(run, 10, 10.0)
        save(run, 20, 20.0)
        return run

    run = fresh("run")
    shutil.copytree(run, tmp_path / "before")
    calls = count_calls(monkeypatch, lambda: save(run, step, 99.0))
    total = 0
    while True:
        shutil.rmtree(run)
        shutil.copytree(tmp_path / "before", run)
        code = die_at(total, lambda: save(run, step, 99.0), torn)
        if code == 0:
            break
        assert code == -9
        recover(run)
        assert value_of(run) in (20.0, 99.0)
        save(run, 40, 40.0)
        assert value_of(run) == 40.0
        hidden = [p.name for p in (run / "checkpoints").iterdir() if p.name.startswith(".")]
        assert not hidden, f"death at call {total} left {hidden} for ever"
        total += 1
    assert value_of(run) == 99.0
    assert total == len(calls) >= 12, "not every call of the save was tried"
    assert {"mkdir", "open", "write", "fsync", "rename", "unlink", "rmdir"} <= set(calls)


class Model(nn.Linear):
    def __init__(self, value: float = 0.0):
        super().__init__(3, 2)
        nn.init.constant_(self.weight, value)
        self.recipe = {"name": "model", "dials": {}}


def test_a1_a_model_survives_death_at_every_call(tmp_path):
    """The same for model/, which is replaced in place: old or new."""
    folder, total = tmp_path / "run" / "model", 0
    while True:
        shutil.rmtree(tmp_path / "run", ignore_errors=True)
        save_model(folder, Model(1.0))
        if die_at(total, lambda: save_model(folder, Model(2.0))) == 0:
            break
        weight = load_model(tmp_path / "run", lambda name: Model()).weight
        assert weight.unique().item() in (1.0, 2.0)
        save_model(folder, Model(3.0))
        assert load_model(folder, lambda name: Model()).weight.unique().item() == 3.0
        assert os.listdir(tmp_path / "run") == ["model"]
        total += 1
    assert total >= 12


def check_order(events: list[tuple[str, str, str]]) -> int:
    """A3 on a log of (call, path, second path): before a rename every file written below the source, and the source
    folder, was fsynced after its last write; after it the parent was. Returns how many renames were checked."""
    renames = 0
    for at, (call, source, target) in enumerate(events):
        if call != "rename" or "/.new-" not in source:
            continue
        renames += 1
        inside = [(i, path) for i, (c, path, _) in enumerate(events[:at]) if c == "write" and path.startswith(source)]
        assert inside, f"nothing was written below {source}"
        for i, path in inside:
            assert ("fsync", path, "") in events[i:at], f"{path} was renamed before it was flushed"
        last = max(i for i, _ in inside)
        if target.rsplit("/", 1)[1].isdecimal() or target.endswith("model"):
            assert ("fsync", source, "") in events[last:at], f"the names in {source} were not flushed"
        assert ("fsync", target.rsplit("/", 1)[0], "") in events[at:], f"the rename to {target} was not flushed"
    return renames


def test_a3_fsync_comes_before_rename(tmp_path, monkeypatch):
    """The order of the calls at the seam; test_a3_strace sees the same from outside."""
    events = []

    def system(call, *arguments):
        first = arguments[0]
        path = os.readlink(f"/proc/self/fd/{first}") if isinstance(first, int) else str(first)
        events.append((call.__name__, path, str(arguments[1]) if call is os.rename else ""))
        return call(*arguments)

    monkeypatch.setattr(disk, "system", system)
    save(tmp_path, 10, 1.0)
    save(tmp_path, 10, 2.0)
    save_model(tmp_path / "model", Model())
    assert check_order(events) == 3


SAVER = """
import sys
from pathlib import Path
import torch
from sfumato.checkpoint import save_state
save_state(Path(sys.argv[1]) / "checkpoints" / "30", {"weights/a": torch.full((50, 3), 99.0)}, {"value": 99.0})
"""
MUTATING = "mkdir,openat,write,fsync,rename,unlink,rmdir"


def strace(*options: str, run: Path, tool: str) -> int:
    command = [tool, "-f", "-qq", *options, sys.executable, "-c", SAVER, str(run)]
    return subprocess.run(command, env=os.environ | {"PYTHONDONTWRITEBYTECODE": "1"}, capture_output=True).returncode


@pytest.fixture
def tool() -> str:
    path = shutil.which("strace")
    if path is None:
        pytest.fail("strace is not installed, and this test looks from outside with it: apt-get install strace")
    return path


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a1_a3_strace(tmp_path, tool):
    """From outside: the log of one save has fsync before rename, and a kill at each of its mutating system calls
    (strace -e inject=…:signal=KILL:when=N) leaves the older checkpoint or the new one."""
    run, log = tmp_path / "run", tmp_path / "log"
    save(run, 20, 20.0)
    shutil.copytree(run, tmp_path / "before")
    assert strace("-y", "-e", f"trace={MUTATING}", "-o", str(log), run=run, tool=tool) == 0
    events, moments, seen = [], [], {}
    for line in log.read_text().splitlines():
        found = re.match(r"\d+\s+(\w+)\((.*)", line)
        if not found:
            continue
        call, rest = found.groups()
        seen[call] = seen.get(call, 0) + 1
        if str(run) not in rest or (call == "openat" and "O_CREAT" not in rest):
            continue
        moments.append((call, seen[call]))
        paths = re.findall(r'"([^"]+)"', rest) if call == "rename" else re.findall(r"<([^>]+)>", rest)
        if paths and call in ("write", "fsync", "rename"):
            events.append((call, paths[0], paths[1] if call == "rename" else ""))
    assert check_order(events) == 1
    assert len(moments) >= 12
    for call, n in moments:
        shutil.rmtree(run)
        shutil.copytree(tmp_path / "before", run)
        code = strace("-e", f"trace={call}", "-e", f"inject={call}:signal=KILL:when={n}", run=run, tool=tool)
        assert code != 0, f"the saver lived through {call} number {n}"
        recover(run)
        folder = latest(run)
        assert folder is not None
        assert load_state(folder)[1]["value"] in (20.0, 99.0)
