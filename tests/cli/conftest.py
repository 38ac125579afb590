"""One tiny run, trained by the command line itself, that every test of verbs looks at."""

import os
import subprocess
import sys

import pytest


def sfumato(*words, cwd=None, **environment):
    """A real process; the tests of verbs never call functions of ours."""
    return subprocess.run(
        [sys.executable, "-m", "sfumato", *map(str, words)],
        cwd=cwd,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """(run folder, the finished process): vq-ar on the digits, 12 steps a stage; a codec, a prior and labels."""
    folder = tmp_path_factory.mktemp("cli")
    words = ["train", "vq-ar", "digits", "--out", "run", "--size", "xs", "--steps", 12, "--score", 0, "--json"]
    done = sfumato(*words, cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder / "run", done
