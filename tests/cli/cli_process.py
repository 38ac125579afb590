"""The command line as a process of its own."""

import os
import subprocess
import sys


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
