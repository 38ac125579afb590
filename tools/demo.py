"""The main job, end to end on embedded pictures: a text becomes an emoji. `make demo` runs it; under six minutes on two cores.

Each step is a command of the library, shown as it would be typed: an autoencoder learns a latent space, a prior learns to
fill it from captions, a grid is drawn, the run is scored and reported. What is cut is said: the set is small (DATA), so
the prior has seen most of these pictures in training; the last row is of pairs that it has never seen, an emoji whose
other styles it knows in a style that was held out.
"""

from __future__ import annotations

import argparse
import shlex
import subprocess
import sys
import time
from pathlib import Path

DATA = "emoji:food+faces"
CODEC_MINUTES, PRIOR_MINUTES = 1.2, 3.5


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/demo"))
    out = parser.parse_args().out
    if out.exists():
        out = next(p for n in range(2, 10_000) if not (p := out.with_name(f"{out.name}-{n}")).exists())
    codec, run, picture = out / "codec", out / "text-to-emoji", out / "prompts.png"
    begun = time.monotonic()
    for words in (
        ["train", "dae", DATA, "--out", codec, "--minutes", CODEC_MINUTES, "--score", 0],
        ["train", "dit", DATA, "--out", run, "--from", f"codec={codec}", "--minutes", PRIOR_MINUTES, "--score", 256],
        ["sample", run, "--text", *PROMPTS, "--guidance", 3, "--out", picture],
    ):
        typed = ["sfumato", *map(str, words)]
        print(f"\n$ {shlex.join(typed)}", flush=True)
        code = subprocess.run([sys.executable, "-m", *typed], check=False).returncode
        if code:
            return code
    print(f"\n{time.monotonic() - begun:.0f} seconds. Look at these two:\n  {picture}\n  {run / 'report.html'}")
    return 0


PROMPTS = [
    "red apple, flat",
]

if __name__ == "__main__":
    sys.exit(main())
