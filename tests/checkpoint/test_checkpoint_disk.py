"""A4, A9, A10: a disk that refuses, bits that rot, two trainers in one folder."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import sys
import time
from pathlib import Path

import pytest
import torch
from deaths import ERRORS, count_calls, refuse_at

from sfumato.checkpoint import disk, latest, load_state, lock, recover, save_state, steps, verify
from sfumato.core.errors import DiskError, Locked, WeightsError


def save(run: Path, step: int, size: int = 100) -> None:
    save_state(run / "checkpoints" / str(step), {"a": torch.full((size,), float(step))}, {"step": step})


@pytest.mark.parametrize("name", ERRORS)
def test_a4_a_refusing_disk_leaves_the_old_checkpoint(tmp_path, monkeypatch, name):
    """At each call of a save in turn: our error, naming path, bytes needed and bytes free; the newest is whole."""
    save(tmp_path / "before", 10)
    shutil.copytree(tmp_path / "before", tmp_path / "run")
    total = len(count_calls(monkeypatch, lambda: save(tmp_path / "run", 20)))
    assert total >= 10
    for n in range(total):
        shutil.rmtree(tmp_path / "run")
        shutil.copytree(tmp_path / "before", tmp_path / "run")
        with monkeypatch.context() as patch:
            patch.setattr(disk, "system", refuse_at(n, ERRORS[name]))
            with pytest.raises(DiskError) as caught:
                save(tmp_path / "run", 20)
        message = str(caught.value)
        assert str(tmp_path / "run" / "checkpoints") in message
        assert os.strerror(ERRORS[name]) in message
        assert "400 bytes" in message, "the bytes needed"
        assert "bytes are free" in message
        assert caught.value.exit_code != 0
        recover(tmp_path / "run")
        found = latest(tmp_path / "run")
        assert found is not None
        verify(found)


def test_a4_a_file_size_limit_of_the_kernel(tmp_path):
    """No injection: a child that may write 2 kB a file gets EFBIG from the kernel, and the old checkpoint stays."""
    save(tmp_path, 10)
    child = os.fork()
    if child == 0:
        code = 1
        try:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (2048, 2048))
            save(tmp_path, 20, size=10_000)
        except DiskError as error:
            code = 42 if "40,000 bytes" in str(error) else 2
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 42
    assert latest(tmp_path) == tmp_path / "checkpoints" / "10"
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == ["10"], "the torn one was cleared away"


def test_the_newest_and_one_verified_older_stay(tmp_path):
    for step in (10, 20, 30, 40):
        save(tmp_path, step)
    assert steps(tmp_path) == [40, 30]
    rot(tmp_path / "checkpoints" / "40" / "state.json")
    save(tmp_path, 50)
    assert steps(tmp_path) == [50, 30], "the older one that stays is one that verifies"
    assert load_state(tmp_path / "checkpoints" / "30")[1]["step"] == 30


def test_an_unreadable_new_checkpoint_prunes_nothing(tmp_path, monkeypatch):
    """A disk that loses a bit on the way: the save fails and what was there stays."""
    save(tmp_path, 10)
    save(tmp_path, 20)
    honest = os.rename

    def system(call, *arguments):
        result = call(*arguments)
        if call is honest and Path(arguments[1]).name == "30":
            rot(Path(arguments[1]) / "state.safetensors")
        return result

    monkeypatch.setattr(disk, "system", system)
    with pytest.raises(DiskError, match="does not read back"):
        save(tmp_path, 30)
    assert steps(tmp_path) == [30, 20, 10]
    assert latest(tmp_path).name == "20"


def rot(path: Path, bit: int | None = None) -> None:
    content = bytearray(path.read_bytes())
    bit = len(content) * 4 if bit is None else bit
    content[bit // 8] ^= 1 << bit % 8
    path.write_bytes(content)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-4])


@pytest.mark.parametrize("file", ["state.safetensors", "state.json", "manifest.json"])
@pytest.mark.parametrize(
    "harm", [rot, cut, Path.unlink, lambda p: p.write_bytes(b"")], ids=["rot", "cut", "gone", "empty"]
)
def test_a9_a_damaged_newest_falls_back_and_says_so(tmp_path, caplog, file, harm):
    save(tmp_path, 10)
    save(tmp_path, 20)
    harm(tmp_path / "checkpoints" / "20" / file)
    assert latest(tmp_path) == tmp_path / "checkpoints" / "10"
    assert "step 20 is skipped" in caplog.text
    folder = str(tmp_path / "checkpoints" / "20")
    assert folder in caplog.text
    with pytest.raises(WeightsError, match=folder):
        load_state(tmp_path / "checkpoints" / "20")


def test_a9_every_bit_of_the_weights_counts(tmp_path):
    """Each of the file's bits flipped in turn is found."""
    save(tmp_path, 10, size=1)
    path = tmp_path / "checkpoints" / "10" / "state.safetensors"
    whole = path.read_bytes()
    for bit in range(8 * len(whole)):
        rot(path, bit)
        with pytest.raises(WeightsError):
            verify(path.parent)
        path.write_bytes(whole)
    verify(path.parent)


# ---- A10 ----


def locker(run: Path, over: Path) -> int:
    """A child that tries for the lock, holds it until `over` is there, and exits 0; 3 when it was refused with a pid,
    else 1."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        with lock(run):
            while not over.exists():
                time.sleep(0.01)
        code = 0
    except Locked as error:
        code = 3 if any(word.isdecimal() for word in str(error).split()) else 1
    except BaseException as error:
        sys.stderr.write(f"{error!r}\n")
    finally:
        os._exit(code)
    raise AssertionError


def test_a10_of_many_that_race_one_wins(tmp_path):
    """The winner holds on until all others were refused, however late a busy machine starts them."""
    for trial in range(5):
        over = tmp_path / f"{trial}.over"
        waiting, codes = {locker(tmp_path / str(trial), over) for _ in range(6)}, []
        while waiting:
            for child in list(waiting):
                gone, status = os.waitpid(child, os.WNOHANG)
                if gone:
                    waiting.remove(child)
                    codes.append(os.waitstatus_to_exitcode(status))
            if len(waiting) == 1:
                over.touch()
            time.sleep(0.01)
        assert sorted(codes) == [0, 3, 3, 3, 3, 3]


def test_a10_the_second_is_refused_at_once_with_the_pid(tmp_path, monkeypatch):
    """At once: without a single wait for the holder, who lives."""
    with lock(tmp_path):
        monkeypatch.setattr(disk.time, "sleep", lambda seconds: pytest.fail("it waited"))
        with pytest.raises(Locked, match=str(os.getpid())), lock(tmp_path):
            pass
    with lock(tmp_path):
        pass


def test_a10_a_stale_lock_does_not_block(tmp_path):
    """The holder is killed, and a data worker that it had forked lives on."""
    child = os.fork()
    if child == 0:
        with lock(tmp_path):
            worker = os.fork()
            if worker == 0:
                time.sleep(20)
                os._exit(0)
            (tmp_path / "worker").write_text(str(worker))
            os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)
    worker = int((tmp_path / "worker").read_text())
    try:
        os.kill(worker, 0)
        with lock(tmp_path):
            assert (tmp_path / "lock").read_text().strip() == str(os.getpid())
    finally:
        os.kill(worker, signal.SIGKILL)
