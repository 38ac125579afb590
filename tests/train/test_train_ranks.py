"""A12: a dead rank, and a stopped one, end the others with a line that names it; the run goes on from its checkpoint.

What is asserted is how it ends, not how soon: the silence that counts as death is shortened by the environment.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import time

import pytest

from sfumato.checkpoint import steps
from sfumato.train.run import resume

PATIENCE = 240  # seconds that the test waits for what must come, on a busy machine


def started(out):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    words = ["train", "vae", "digits", "--out", str(out), "--size", "xs", "--side", "8", "--steps", "100000"]
    command = [sys.executable, "-m", "sfumato", *words, "--save-every", "20", "--score", "0"]
    common = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": "1"}
    common |= {"ACCELERATE_USE_CPU": "true", "SFUMATO_SILENCE": "6"}
    ranks = [os.environ | common | {"RANK": str(r), "LOCAL_RANK": str(r)} for r in range(2)]
    return [subprocess.Popen(command, env=rank, stderr=subprocess.PIPE, text=True) for rank in ranks]


def wait_for(what):
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until:
        if what():
            return
        time.sleep(0.1)
    raise AssertionError("it never came")


@pytest.mark.parametrize(("how", "lost"), [(signal.SIGKILL, 1), (signal.SIGSTOP, 1), (signal.SIGSTOP, 0)])
def test_a_rank_that_is_gone_ends_the_others_by_name(tmp_path, how, lost):
    out = tmp_path / "run"
    ranks = started(out)
    try:
        wait_for(lambda: steps(out) and steps(out)[0] >= 20)
        ranks[lost].send_signal(how)
        _, said = ranks[1 - lost].communicate(timeout=PATIENCE)
        assert ranks[1 - lost].returncode == 1, said[-2000:]
        assert f"Rank {lost} of 2 is gone, or was stopped" in said
        assert f"sfumato resume {out}" in said
        assert "Traceback" not in said
    finally:
        for rank in ranks:
            rank.kill()
            rank.communicate()
    record = json.loads((out / "train.json").read_text())
    (out / "train.json").write_text(json.dumps(record | {"steps": steps(out)[0] + 2}))
    assert resume(out, quiet=True).steps == record["steps"] - 100000 + steps(out)[0]  # one process goes on alone
