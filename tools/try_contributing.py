"""Follows CONTRIBUTING.md word for word in a fresh clone: every file, every line that is to be put in, every command.

    python tools/try_contributing.py [--venv .venv]

`make install` and `make test` of the page are left out: the clone borrows this checkout's virtual environment, with its
own sources in front, and the tests are what CI runs anyway.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent.parent
BLOCK = re.compile(r"(?:<!-- (.*?) -->\n)?```(\w*)\n(.*?)```", re.DOTALL)
SKIPPED = ("git clone", "make ")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--venv", type=Path, default=HERE / ".venv")
    venv = parser.parse_args().venv.absolute()
    with tempfile.TemporaryDirectory() as scratch:
        clone = Path(scratch) / "sfumato-mine"
        subprocess.run(["git", "clone", "--quiet", str(HERE), str(clone)], check=True)
        (clone / ".venv").symlink_to(venv)
        for where, _, text in BLOCK.findall((clone / "CONTRIBUTING.md").read_text(encoding="utf-8")):
            if where:
                put(clone, where, text)
            else:
                for line in text.splitlines():
                    run(clone, line)
    print("CONTRIBUTING.md holds.")


def put(clone: Path, where: str, text: str) -> None:
    """ "file PATH", or "into PATH before "LINE"": the text, in its place."""
    if where.startswith("file "):
        (clone / where.removeprefix("file ")).write_text(text, encoding="utf-8")
        return
    path, mark = re.fullmatch(r'into (\S+) before "(.*)"', where).groups()
    before = (clone / path).read_text(encoding="utf-8")
    at = before.index(f"\n{mark}") + 1
    gap = "\n\n" if mark.startswith("def ") else ""
    (clone / path).write_text(before[:at] + text + gap + before[at:], encoding="utf-8")


def run(clone: Path, line: str) -> None:
    command = line.partition("  #")[0].strip()
    if not command or command.startswith(SKIPPED):
        return
    print("$", command, flush=True)
    command = command.replace(".venv/bin/sfumato", ".venv/bin/python -m sfumato")  # the script knows other sources
    subprocess.run(command, shell=True, cwd=clone, check=True, env={**os.environ, "PYTHONPATH": str(clone / "src")})


if __name__ == "__main__":
    main()
