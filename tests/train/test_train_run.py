"""A run folder from beginning to end: stopping and going on (A7), divergence (A8), rot (A9), the lock (A10)."""

from __future__ import annotations

import json
import logging
import os
import random
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from PIL import Image
from toy import pictures, register

from sfumato import recipes
from sfumato.checkpoint import latest, load_model, load_state, lock, save_model, steps
from sfumato.checkpoint.tensors import hash_tensors
from sfumato.core.errors import DataError, Diverged, Locked, UsageError, WeightsError
from sfumato.train import clock, stage
from sfumato.train.run import resume, train
from sfumato.train.stop import Stopped

HERE = Path(__file__).parent


@pytest.fixture(autouse=True)
def toy_recipe():
    register()
    yield
    recipes.RECIPES._things.pop("toy")


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return pictures(tmp_path_factory.mktemp("toy") / "pictures")


@pytest.fixture(scope="module")
def straight(tmp_path_factory, data) -> Path:
    """A run that nothing disturbed, which others are compared with."""
    register()
    out = tmp_path_factory.mktemp("straight") / "run"
    train("toy", data, out=out, quiet=True)
    return out


def result(run: Path) -> tuple[str, str]:
    """The weights that the run ended with, and those of its last state."""
    tensors, _ = load_state(latest(run))
    return hash_tensors(load_model(run).state_dict()), hash_tensors(tensors)


def lines(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def timeless(run: Path) -> list[dict]:
    return [{k: v for k, v in line.items() if k != "rows_per_second"} for line in lines(run)]


def test_a_run_folder_holds_what_it_should(straight, data):
    assert {p.name for p in straight.iterdir()} == {
        *("recipe.json", "train.json", "data.json", "metrics.jsonl", "lock"),
        *("model", "checkpoints", "samples", "tensorboard"),
    }
    assert {p.name for p in (straight / "model").iterdir()} == {"recipe.json", "weights.safetensors", "manifest.json"}
    recipe = json.loads((straight / "recipe.json").read_text())
    assert recipe["name"] == "toy"
    assert recipe["schema"] == 1
    assert json.loads((straight / "data.json").read_text())["images"] == 20
    assert steps(straight)[0] == 60
    said = lines(straight)
    assert [line["step"] for line in said] == list(range(1, 61))
    assert {line["stage"] for line in said} == {"codec", "prior"}
    assert all(isinstance(line["loss"], float) for line in said)
    assert {int(p.stem) for p in (straight / "samples").iterdir()} >= {30, 60}
    sheet = Image.open(straight / "samples" / "60.png")
    assert sheet.text["step"] == "60"
    assert list((straight / "tensorboard").iterdir())


def test_finish_sees_the_averaged_weights_and_all_pictures(tmp_path, data, monkeypatch):
    seen = []
    build = recipes.build
    monkeypatch.setattr(recipes, "build", lambda name, **dials: seen.append(build(name, **dials)) or seen[-1])
    run = train("toy", data, out=tmp_path / "run", quiet=True, steps=10)
    system = seen[1]  # the first was built on the meta device
    assert system.prepared == ["codec", "prior"]
    loaded = run.load()
    for name, weight, count in system.finished:
        assert count == 20
        assert torch.equal(weight, next(iter(loaded.stages()[name].parameters())))
    assert run.steps == 20


def test_the_same_request_is_the_same_run(tmp_path, data, straight):
    torch.manual_seed(99)
    before = torch.random.get_rng_state()
    train("toy", data, out=tmp_path / "again", quiet=True)
    assert torch.equal(before, torch.random.get_rng_state())
    assert result(tmp_path / "again") == result(straight)
    assert timeless(tmp_path / "again") == timeless(straight)
    train("toy", data, out=tmp_path / "other", quiet=True, seed=1)
    assert result(tmp_path / "other") != result(straight)


def test_a_finished_run_is_resumed_as_it_is(straight):
    before = result(straight), timeless(straight)
    run = resume(straight, quiet=True)
    assert run.steps == 60
    assert (result(straight), timeless(straight)) == before


class Death(BaseException):
    pass


def train_until_death(monkeypatch, moment: int, data: Path, out: Path) -> None:
    """Dies after a step (counted over the stages), before what would follow it."""

    def heed(self, step, honest=stage.Stage._heed):
        honest(self, step)
        if self.course.offset + step.step == moment:
            raise Death

    with monkeypatch.context() as patch:
        patch.setattr(stage.Stage, "_heed", heed)
        with pytest.raises(Death):
            train("toy", data, out=out, quiet=True, save_every=7)


@pytest.mark.parametrize("moment", [1, 13, 29, 30, 31, 45, 60])
def test_death_at_any_step_and_resume_is_the_straight_run(tmp_path, data, straight, monkeypatch, moment):
    """Death after a step of either stage, and before its checkpoint: every 7 steps one is written."""
    train_until_death(monkeypatch, moment, data, tmp_path / "run")
    with open(tmp_path / "run" / "metrics.jsonl", "a") as file:
        file.write('{"step": 3, "lo')  # as a death while writing would leave it
    run = resume(tmp_path / "run", quiet=True)
    assert run.steps == 60
    assert result(tmp_path / "run") == result(straight)
    assert timeless(tmp_path / "run") == timeless(straight)


def test_death_between_the_last_step_and_the_next_stage(tmp_path, data, straight, monkeypatch):
    def die(*arguments):
        raise Death

    with monkeypatch.context() as patch:
        patch.setattr(stage, "save_model", die)
        with pytest.raises(Death):
            train("toy", data, out=tmp_path / "run", quiet=True)
    resume(tmp_path / "run", quiet=True)
    assert result(tmp_path / "run") == result(straight)


def test_a9_a_rotten_newest_checkpoint_costs_steps_and_no_bits(tmp_path, data, straight, monkeypatch, caplog):
    train_until_death(monkeypatch, 23, data, tmp_path / "run")
    assert steps(tmp_path / "run") == [21, 14]
    path = tmp_path / "run" / "checkpoints" / "21" / "state.safetensors"
    content = bytearray(path.read_bytes())
    content[-5] ^= 16
    path.write_bytes(content)
    with caplog.at_level(logging.WARNING):
        resume(tmp_path / "run", quiet=True)
    assert "step 21 is skipped" in caplog.text
    assert result(tmp_path / "run") == result(straight)
    for step in steps(tmp_path / "run"):
        (tmp_path / "run" / "checkpoints" / str(step) / "manifest.json").write_text("{}")
    with pytest.raises(WeightsError, match="No checkpoint"):
        resume(tmp_path / "run", quiet=True)


# ---- A7 ----


def spawn(run: Path, data: Path, delay: float, **more: str) -> subprocess.Popen:
    command = [sys.executable, str(HERE / "toy.py"), str(run), str(data), str(delay)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"} | more
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)


def wait_for(run: Path, count: int, process: subprocess.Popen) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        if (run / "metrics.jsonl").exists() and len((run / "metrics.jsonl").read_text().splitlines()) >= count:
            return
        time.sleep(0.01)
    pytest.fail(f"the training never came to step {count}: {process.communicate()[1][-2000:]}")


def set_delay(run: Path, delay: float) -> None:
    """The toy's pace is a dial, and only that: it changes no number."""
    for name in ("recipe.json", "train.json"):
        record = json.loads((run / name).read_text())
        record["dials"]["delay"] = delay
        (run / name).write_text(json.dumps(record))


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a7_a_signal_ends_in_order_and_no_step_is_lost(tmp_path, data, straight, number, code):
    run = tmp_path / "run"
    process = spawn(run, data, 0.05)
    wait_for(run, 3, process)
    time.sleep(random.Random(code).uniform(0, 0.3))
    process.send_signal(number)
    assert process.wait() == code, process.stderr.read()
    logged = lines(run)[-1]["step"]
    assert logged < 60, "the training went on to its end"
    assert latest(run).name == str(logged), "a logged step is not in the checkpoint"
    load_model(run)
    set_delay(run, 0.0)
    resume(run, quiet=True)
    assert result(run) == result(straight)
    assert timeless(run) == timeless(straight)


def test_a7_a_second_signal_ends_at_once_with_a_valid_checkpoint(tmp_path, data, straight):
    run = tmp_path / "run"
    process = spawn(run, data, 3600.0)  # the second step takes an hour, so the first signal waits for its end
    wait_for(run, 1, process)
    time.sleep(1)  # well inside the second step
    process.send_signal(signal.SIGTERM)
    time.sleep(0.3)
    assert process.poll() is None, "the first signal did not wait for the step"
    process.send_signal(signal.SIGTERM)
    assert process.wait() == 143
    assert [line["step"] for line in lines(run)] == [1], "the second signal waited for the step"
    assert latest(run) is not None
    set_delay(run, 0.0)
    resume(run, quiet=True)
    assert result(run) == result(straight)


def test_two_processes_share_one_run_folder(tmp_path, data):
    """One of them holds the lock and writes; a signal to one stops both, and both go on."""
    run = tmp_path / "run"

    def pair(delay: float) -> list[subprocess.Popen]:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = str(probe.getsockname()[1])
        common = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "ACCELERATE_USE_CPU": "true"}
        ranks = [common | {"RANK": rank, "LOCAL_RANK": rank} for rank in "01"]
        return [spawn(run, data, delay, **rank) for rank in ranks]

    processes = pair(0.05)
    wait_for(run, 3, processes[0])
    processes[1].send_signal(signal.SIGTERM)
    codes = [process.wait(60) for process in processes]
    assert codes == [143, 143], processes[0].stderr.read()
    assert latest(run).name == str(lines(run)[-1]["step"])
    set_delay(run, 0.0)
    codes = [(process.communicate(timeout=120)[1][-2000:], process.returncode) for process in pair(0.0)]
    assert [code for _, code in codes] == [0, 0], codes
    assert [line["step"] for line in lines(run)] == list(range(1, 61))
    load_model(run)


@pytest.mark.slow
@pytest.mark.parametrize("trial", range(12))
def test_a7_signals_at_random_times(tmp_path, data, straight, trial):
    """SIGTERM, twice, or SIGKILL, at random moments of start, steps and saves, until the run is through."""
    run, dice = tmp_path / "run", random.Random(trial)
    for _ in range(8):
        process = spawn(run, data, 0.02)
        try:
            process.wait(dice.uniform(2.5, 6))
        except subprocess.TimeoutExpired:
            process.send_signal(dice.choice([signal.SIGTERM, signal.SIGINT, signal.SIGKILL]))
            if dice.random() < 0.3:
                process.send_signal(signal.SIGTERM)
            process.wait(30)
        assert process.returncode in (0, 143, 130, -9, -15, -2), process.stderr.read()
        assert not steps(run) or latest(run) is not None
    set_delay(run, 0.0)
    resume(run, quiet=True)
    assert result(run) == result(straight)


def test_a7_signals_are_given_back(tmp_path, data, monkeypatch):
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    asked = []

    def heed(self, step, honest=stage.Stage._heed):
        honest(self, step)
        if not asked:
            asked.append(os.kill(os.getpid(), signal.SIGTERM))

    monkeypatch.setattr(stage.Stage, "_heed", heed)
    with pytest.raises(Stopped) as caught:
        train("toy", data, out=tmp_path / "run", quiet=True)
    assert caught.value.code == 143
    assert [line["step"] for line in lines(tmp_path / "run")] == [1], "the step that a signal came in is not the last"
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before
    with lock(tmp_path / "run"):
        pass


# ---- A8 ----


def test_a8_divergence_is_rolled_back_once_and_then_ends(tmp_path, data, caplog):
    """Non-finite from step 15 on: after eleven, back to the last checkpoint from before the streak in another order;
    eleven more, over. Within the streak none is kept: 21 is a multiple of 7."""
    with caplog.at_level(logging.WARNING), pytest.raises(Diverged) as caught:
        train("toy", data, out=tmp_path / "run", quiet=True, save_every=7, steps=60, poison=14)
    assert caught.value.exit_code == 4
    assert "goes back to step 14" in caplog.text
    assert not (tmp_path / "run" / "checkpoints" / "21").exists()
    said = lines(tmp_path / "run")
    rollbacks = [i for i, line in enumerate(said) if "rollback" in line]
    assert len(rollbacks) == 1
    skipped = [line for line in said if line.get("skipped")]
    assert all(line["loss"] is None and len(line["index"]) == 8 for line in skipped)
    before, after = (
        [x["index"] for x in part if x.get("skipped")] for part in (said[: rollbacks[0]], said[rollbacks[0] :])
    )
    assert before[-len(after) :] != after, "the data came in the same order again"
    good, _ = load_state(latest(tmp_path / "run"))
    assert all(torch.isfinite(t).all() for t in good.values() if t.is_floating_point())


def test_a8_what_passes_after_a_roll_back_is_trained_to_the_end(tmp_path, data, monkeypatch):
    """Non-finite for eleven steps in the old order only."""

    def at(self, k, honest=stage.Batches.at):
        batch = honest(self, k)
        if self.salt == 0 and 10 <= k < 25:
            batch["image"] = batch["image"] * float("nan")
        return batch

    monkeypatch.setattr(stage.Batches, "at", at)
    run = train("toy", data, out=tmp_path / "run", quiet=True, save_every=7, steps=30)
    assert run.steps == 60
    assert sum("rollback" in line for line in lines(tmp_path / "run")) == 2  # one in each stage


# ---- what is refused, and what is asked ----


def test_a10_a_second_trainer_is_refused(tmp_path, data, straight):
    with lock(tmp_path / "run"), pytest.raises(Locked, match=str(os.getpid())):
        train("toy", data, out=tmp_path / "run", quiet=True)
    with lock(straight), pytest.raises(Locked):
        resume(straight, quiet=True)


def test_refusals_say_what_now(tmp_path, data, straight):
    with pytest.raises(UsageError, match="resume"):
        train("toy", data, out=straight, quiet=True)
    with pytest.raises(UsageError, match="one of the two"):
        train("toy", data, out=tmp_path / "a", steps=1, minutes=1)
    with pytest.raises(UsageError, match="positive"):
        train("toy", data, out=tmp_path / "a", batch=0)
    with pytest.raises(UsageError, match="no side"):
        train("toy", data, out=tmp_path / "a", side=8)
    with pytest.raises(UsageError, match="holds no run"):
        resume(tmp_path)
    with pytest.raises(UsageError, match="codec"):
        train("toy", data, out=tmp_path / "b", quiet=True, from_={"codek": straight})
    assert not (tmp_path / "b" / "train.json").exists(), "a refused request left a run behind"


def test_changed_data_are_refused(tmp_path):
    folder = pictures(tmp_path / "pictures", 9)
    train("toy", folder, out=tmp_path / "run", quiet=True, steps=2)
    (folder / "00.png").unlink()
    with pytest.raises(DataError, match="has changed"):
        resume(tmp_path / "run", quiet=True)


def test_a_given_stage_is_taken_and_not_trained(tmp_path, data, straight):
    run = train("toy", data, out=tmp_path / "run", quiet=True, steps=5, from_={"codec": straight})
    assert run.steps == 5
    mine, theirs = run.load(), load_model(straight)
    assert hash_tensors(mine.first.state_dict()) == hash_tensors(theirs.first.state_dict())
    assert hash_tensors(mine.second.state_dict()) != hash_tensors(theirs.second.state_dict())


def test_a_given_stage_that_does_not_fit_is_refused_whole(tmp_path, data, straight, monkeypatch):
    other = recipes.build("toy")
    other.first.head = torch.nn.Linear(12, 16, bias=False)
    build = recipes.build
    save_model(tmp_path / "model", other)

    def odd(name, **dials):
        system = build(name, **dials)
        system.first.head = torch.nn.Linear(12, 16, bias=False)
        return system

    from sfumato.train import donors as module

    monkeypatch.setattr(module, "load_model", lambda path: load_model(path, odd))
    with pytest.raises(WeightsError, match=r"missing head\.bias"):
        train("toy", data, out=tmp_path / "run", quiet=True, from_={"codec": tmp_path / "model"})


def test_minutes_are_shared_by_the_stages_and_kept(tmp_path, data, monkeypatch):
    """Half a minute for two stages, by a clock that goes on by a twentieth of a second whenever it is read: the end is
    kept within a step and what closes a stage, however busy the machine is."""
    reads = iter(range(10**9))
    spent = []
    monkeypatch.setattr(clock, "clock", lambda: spent.append(next(reads) * 0.05) or spent[-1])
    run = train("toy", data, out=tmp_path / "run", quiet=True, minutes=0.5)
    assert 30 * 0.8 < spent[-1] - spent[0] < 30 * 1.1
    counts = {stage: sum(line["stage"] == stage for line in lines(tmp_path / "run")) for stage in ("codec", "prior")}
    assert min(counts.values()) > 0
    assert max(counts.values()) < 2 * min(counts.values()), "the stages have equal parts of the minutes"
    assert run.steps == lines(tmp_path / "run")[-1]["step"], "the last step was not written"
    assert lines(tmp_path / "run")[-1]["progress"] > 0.8


def test_a_pipe_hears_a_line_now_and_then(tmp_path, data, capfd):
    train("toy", data, out=tmp_path / "run", steps=20)
    said = capfd.readouterr()
    assert said.out == ""
    told = [line for line in said.err.splitlines() if line.startswith(("codec:", "prior:"))]
    assert 2 <= len(told) <= 6
    assert re.search(r"prior: 100%  step 20  loss \S+  \S+ images/s", said.err)
