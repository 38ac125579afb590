"""What the pages say is tried: tools/try_docs.py, claim by claim, and tools/try_contributing.py, in a fresh clone."""

import subprocess
import sys
from pathlib import Path

import pytest

TOOLS = Path(__file__).parent.parent / "tools"


@pytest.mark.slow
@pytest.mark.parametrize("tool", ["try_docs.py", "try_contributing.py"])
def test_what_the_pages_say_holds(tool):
    done = subprocess.run([sys.executable, TOOLS / tool], capture_output=True, text=True, check=False, cwd=TOOLS.parent)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
    assert "hold" in done.stdout
