"""One tiny run, trained by the command line itself, that every test of verbs looks at."""

import pytest
from cli_process import sfumato


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """(run folder, the finished process): vq-ar on the digits, 12 steps a stage; a codec, a prior and labels."""
    folder = tmp_path_factory.mktemp("cli")
    words = ["train", "vq-ar", "digits", "--out", "run", "--size", "xs", "--steps", 12, "--score", 0, "--json"]
    done = sfumato(*words, cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder / "run", done
