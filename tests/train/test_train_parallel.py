"""Two gloo processes learn what one does with the same global batch; with sharded weights too."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent


def launch(out: Path, world: int, *arguments: str) -> list[dict]:
    """Runs worker.py in `world` processes; their reports, by rank."""
    out.mkdir()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    processes = []
    for rank in range(world):
        environment = os.environ | {
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "WORLD_SIZE": str(world),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
            "ACCELERATE_USE_CPU": "true",
            "OMP_NUM_THREADS": "1",
        }
        command = [sys.executable, str(HERE / "worker.py"), *arguments, str(out)]
        processes.append(subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True))
    for process in processes:
        _, errors = process.communicate(timeout=300)
        assert process.returncode == 0, errors[-3000:]
    return [json.loads((out / f"{rank}.json").read_text()) for rank in range(world)]


@pytest.mark.parametrize(
    ("family", "accumulate", "shard"),
    [("one", "1", "whole"), ("one", "2", "whole"), ("two", "1", "whole"), ("two", "2", "whole"), ("one", "1", "shard")],
)
def test_two_processes_learn_what_one_does(tmp_path, family, accumulate, shard):
    """The same loss curve within 1e-5 (gradients are summed in another order; 12 steps), bitwise the same weights on
    both ranks, one step skipped on both although only one met the bad picture, and all pictures of it named."""
    (alone,) = launch(tmp_path / "one", 1, family, accumulate, "whole")
    pair = launch(tmp_path / "two", 2, family, accumulate, shard)
    assert [report["world"] for report in pair] == [2, 2]
    for name in ("losses", "norms"):
        assert pair[0][name][7] is None
        assert alone[name][7] is None
        for report in pair:
            assert report[name][:7] + report[name][8:] == pytest.approx(alone[name][:7] + alone[name][8:], abs=1e-5)
    assert pair[0]["weights"] == pair[1]["weights"]
    assert pair[0]["index"] == alone["index"]
    assert len(alone["index"]) == 8
    assert all(report["again"] for report in (alone, *pair)), "a state does not come back as it went out"
