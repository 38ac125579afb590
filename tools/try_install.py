"""Tries a plain installation: python tools/try_install.py [FOLDER]

Makes a bare environment in FOLDER (/tmp/sfumato-bare if not given), installs torch and then this package without
extras, counts what came beside torch's own, and runs every verb in it on a tiny run. Exit 0: at most 25 packages, and
each verb works or names the extra that it wants. An environment that is there is brought up to date.
"""

import subprocess
import sys
import tempfile
import venv
from pathlib import Path

from PIL import Image

ROOT = Path(__file__).parents[1]
MOST = 25


def main() -> int:
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "/tmp/sfumato-bare")
    if not (folder / "bin").exists():
        venv.create(folder, with_pip=True)
    pip = [str(folder / "bin" / "python"), "-m", "pip", "--disable-pip-version-check"]
    listed = lambda: set(subprocess.check_output([*pip, "list", "--format=freeze"], text=True).split())
    torch = next(line for line in (ROOT / "requirements.lock").read_text().split() if line.startswith("torch=="))
    subprocess.check_call([*pip, "install", "--quiet", torch])
    before = folder / "torch.txt"
    if not before.exists():
        before.write_text("\n".join(sorted(listed())))
    subprocess.check_call([*pip, "install", "--quiet", "--force-reinstall", "--no-deps", str(ROOT)])
    subprocess.check_call([*pip, "install", "--quiet", str(ROOT)])
    own = sorted(line for line in listed() - set(before.read_text().split()) if not line.startswith("sfumato=="))
    print(f"{len(own)} packages beside torch's own: {', '.join(own)}")
    wrong = tried(str(folder / "bin" / "sfumato"))
    return 1 if len(own) > MOST or wrong else 0


def tried(sfumato: str) -> list[str]:
    """The verbs that neither worked nor named an extra."""
    wrong = []
    with tempfile.TemporaryDirectory() as scratch:
        Image.new("RGB", (8, 8), "red").save(Path(scratch) / "a.png")
        Image.new("L", (8, 8), 255).save(Path(scratch) / "m.png")
        for words in WORDS:
            done = subprocess.run([sfumato, *words.split()], cwd=scratch, capture_output=True, text=True, check=False)
            ok = done.returncode == 0 or "sfumato[" in done.stderr or "HF_HUB_OFFLINE" in done.stderr
            wrong += [] if ok else [words]
            first = (done.stderr.strip().splitlines() or [""])[-1]
            print(f"{'ok   ' if ok else 'WRONG'} {done.returncode} sfumato {words}: {first[:110]}", flush=True)
    return wrong


TRAIN = "--size xs --steps 2 --batch 2 --score 8"
WORDS = [
    "--version",
    *(f"list {topic}" for topic in ("recipes", "codecs", "priors", "data", "metrics")),
    "data emoji",
    "data hub:someone/pictures",
    f"train vae+diffusion digits --out run {TRAIN}",
    f"train gud-wavelet digits --side 8 --out gud {TRAIN}",
    "resume run",
    "info run",
    "info gud",
    "info ldm --size paper",
    "sample run -n 1",
    "reconstruct run a.png",
    "encode run a.png --out z.safetensors",
    "decode run z.safetensors",
    "edit run a.png --mask m.png",
    "interpolate run a.png a.png --frames 2",
    "extend run a.png --right 4",
    "upscale gud a.png",
    "score run digits -n 8",
    "report run",
    f"train vit digits --out vit {TRAIN}",
    "classify vit a.png",
    "embed vit a.png --out e.safetensors",
    f"train words+autoregressive emoji:food+captions --out words {TRAIN}",
    "sample words -n 1",
    "push run someone/run",
]


if __name__ == "__main__":
    import os

    os.environ["HF_HUB_OFFLINE"] = "1"  # no verb may go out
    sys.exit(main())
