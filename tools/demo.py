"""The main job, end to end on embedded pictures: a text becomes an emoji. `make demo` runs it; six minutes, two cores.

Each step is a command of the library, shown as it would be typed: an autoencoder learns tokens, a transformer learns to
write them from captions, a grid is drawn, the run is scored and reported. What is cut is said: the set is a few hundred
pictures of food and faces, and the model has seen all that `prompts.png` asks for; `unseen.png` asks for pairs that
were held out, an emoji in a style that it knows from other emoji only, and will fail more often.
"""

from __future__ import annotations

import argparse
import shlex
import subprocess
import sys
import time
from pathlib import Path

DATA = "emoji:food+faces+3d+flat"
CODEC_MINUTES, PRIOR_MINUTES = 1.1, 3.6
DRAW = ["--guidance", "1.5", "--temperature", "0.6", "--batch", "24"]
SHOWN = 24


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/demo"))
    out = parser.parse_args().out
    if out.exists():
        out = next(p for n in range(2, 10_000) if not (p := out.with_name(f"{out.name}-{n}")).exists())
    codec, run = str(out / "codec"), str(out / "text-to-emoji")
    seen, unseen = str(out / "prompts.png"), str(out / "unseen.png")
    begun = time.monotonic()
    for words in (
        ["train", "vqvae", DATA, "--depth", "16", "--out", codec, "--minutes", str(CODEC_MINUTES), "--score", "0"],
        [
            "train",
            "vq-ar",
            DATA,
            "--out",
            run,
            "--from",
            f"codec={codec}",
            "--minutes",
            str(PRIOR_MINUTES),
            "--score",
            "128",
        ],
        ["sample", run, "--text", *captions("train"), *DRAW, "--out", seen],
        ["sample", run, "--text", *captions("unseen-pairs"), *DRAW, "--out", unseen],
    ):
        print(f"\n$ {shlex.join(['sfumato', *words])}", flush=True)
        code = subprocess.run([sys.executable, "-m", "sfumato", *words], check=False).returncode
        if code:
            return code
    print(
        f"\nDone in {time.monotonic() - begun:.0f} seconds. Look at\n"
        f"  {seen}   captions that were trained on\n"
        f"  {unseen}    pairs of emoji and style that were held out\n"
        f"  {Path(run) / 'report.html'}"
    )
    return 0


def captions(split: str) -> list[str]:
    """Every so many captions of the split, so that the choice is nobody's."""
    from sfumato.data import open_data

    source = open_data(DATA, side=32, split=split)
    return [source.text(i * len(source) // SHOWN) for i in range(SHOWN)]


if __name__ == "__main__":
    sys.exit(main())
