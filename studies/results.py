"""The figures of docs/results.md: every model trained and scored by the commands that a user would type.

    python studies/results.py --out runs/results                 all jobs, one after the other, on one thread
    python studies/results.py --out runs/results --only mnist    those whose name contains the word
    python studies/results.py --out runs/results --write         docs/results.md and its pictures from what is there

Each job keeps its run folder, the commands and the processor seconds they took. --write copies the records of what is
there to docs/results/, replacing older ones, and makes the page of all that are kept. Nothing is left out because it
looks bad.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shlex
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from records import ROOT, keep, sheet

from priors import section

SETS = {"mnist": ("../shared/data/mnist", 28, "test"), "emoji": ("../shared/data/emoji", 32, "unseen-emoji")}
# Minutes of the clock, on one thread: a codec's, and a prior's over a codec that is there already
MINUTES = {"codec": 2.5, "prior": 10}
CODEC_SCORES = ["psnr", "ssim", "rfd", "usage", "perplexity", "bits"]
LIKELIHOOD = ("vae", "vqvae", "dvae", "fsq")  # the others have no density to speak of


@dataclass(frozen=True)
class Job:
    name: str
    recipe: str
    set: str
    dials: tuple[str, ...] = ()
    codec: str | None = None  # the job whose codec is taken over

    def commands(self, out: Path) -> list[list[str]]:
        data, side, split = SETS[self.set]
        run = str(out / self.name)
        minutes = MINUTES["codec" if self.is_codec else "prior"]
        train = ["train", self.recipe, data, "--side", str(side), "--minutes", str(minutes), "--out", run]
        train += [*self.dials, "--score", "0"]
        train += ["--from", f"codec={out / self.codec}"] if self.codec else []
        score = ["score", run, data, "--metrics"]
        if self.is_codec:
            names = [n for n in CODEC_SCORES if n != "bits" or self.recipe in LIKELIHOOD]
            names = [n for n in names if n not in ("usage", "perplexity") or self.recipe not in ("dae", "ae", "vae")]
            score += [*names, "--split", split, "-n", "512"]
        else:
            score += ["fd", "kd", "accuracy" if self.set == "mnist" else "retrieval", "-n", "512"]
            score += ["--split", "train" if self.set == "mnist" else "unseen-pairs", "--guidance", "1.5"]
            score += {"ldm": [], "vq-ar": [], "ddpm": ["--steps", "20"]}.get(
                self.recipe,
                ["--steps", "10"],  # of Heun, two evaluations each
            )
        return [train, score]

    @property
    def is_codec(self) -> bool:
        return self.recipe in ("ae", "dae", "vae", "vqvae", "dvae", "vqgan", "fsq")


def jobs() -> list[Job]:
    found = []
    for set_ in SETS:
        for recipe in ("vqvae", "dae", "vae", "dvae", "vqgan"):
            dials = ("--factor", "4") if recipe == "vae" else ()
            found.append(Job(f"{set_}-{recipe}", recipe, set_, dials))
        for recipe, codec in (("vq-ar", "vqvae"), ("ldm", "dae")):
            found.append(Job(f"{set_}-{recipe}", recipe, set_, codec=f"{set_}-{codec}"))
        # on the full emoji set ten minutes of a thread are too few for a diffusion on pixels
        for recipe in ("rectified-flow", "ddpm", "edm") if set_ == "mnist" else ():
            found.append(Job(f"{set_}-{recipe}", recipe, set_))
    return found


def run(job: Job, out: Path) -> None:
    record = out / f"{job.name}.json"
    if record.exists():
        return
    typed, begun = [], resource.getrusage(resource.RUSAGE_CHILDREN)
    for words in job.commands(out):
        typed.append(shlex.join(["sfumato", *words]))
        if words[0] == "train" and (out / job.name / "model").exists():
            continue  # an earlier call was stopped while it scored
        print("$", typed[-1], flush=True)
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        subprocess.run([sys.executable, "-m", "sfumato", *words], check=True, cwd=ROOT, env=environment)
        spent = resource.getrusage(resource.RUSAGE_CHILDREN)
        print(f"{spent.ru_utime - begun.ru_utime:.0f} processor seconds", flush=True)
    scores = json.loads((out / job.name / "scores.json").read_text())
    spent = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = spent.ru_utime + spent.ru_stime - begun.ru_utime - begun.ru_stime
    when = time.strftime("%Y-%m-%d")
    record.write_text(json.dumps({"commands": typed, "seconds": seconds, **scores, "when": when}, indent=1) + "\n")


# ---- the page ----


COLUMNS = {
    "codec": ["psnr", "ssim", "rfd", "usage", "perplexity", "bits"],
    "prior": ["fd", "kd", "accuracy", "r@1", "r@5"],
}
TITLES = {"mnist": "MNIST, 28 px, grey, by class", "emoji": "Emoji, the full set, 32 px, by caption"}


def table(found: list[tuple[Job, dict]], kind: str) -> list[str]:
    """A row a job; a column for every score that any of them has, under its full name."""
    names = sorted({n for _, r in found for n in r["scores"]}, key=lambda n: (rank(n, kind), n))
    rows = ["| model | " + " | ".join(f"`{n}`" for n in names) + " | CPU minutes | when |"]
    rows += ["|---" * (len(names) + 3) + "|"]
    for job, record in found:
        values = [f"{record['scores'][n]:.4g}" if n in record["scores"] else "–" for n in names]
        rows.append(f"| {job.recipe} | " + " | ".join(values) + f" | {record['seconds'] / 60:.1f} | {record['when']} |")
    return rows


def rank(name: str, kind: str) -> int:
    return next((i for i, c in enumerate(COLUMNS[kind]) if name.split("-")[0].split("@")[0] == c.split("@")[0]), 99)


def write(out: Path) -> None:
    lines = (ROOT / "docs" / "results.head.md").read_text().rstrip().splitlines()
    for set_, title in TITLES.items():
        lines += ["", f"## {title}"]
        for kind, said in (("codec", "Reconstructions of pictures never seen"), ("prior", "Samples")):
            done = keep(out, [j for j in jobs() if j.set == set_ and j.is_codec == (kind == "codec")])
            if not done:
                continue
            picture = Path("pictures") / f"results-{set_}-{kind}.png"
            lines += ["", f"### {said}", "", *table(done, kind)]
            sheet([j for j, _ in done], out, ROOT / "docs" / picture)
            lines += ["", f"![{said}, {title}]({picture})"]
            lines += ["", "<details><summary>The commands</summary>", "", "```"]
            lines += [c.replace(f"{ROOT}/", "") for _, record in done for c in record["commands"]]
            lines += ["```", "", "</details>"]
    lines += section(out.parent / "priors")
    (ROOT / "docs" / "results.md").write_text("\n".join(lines) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/results"))
    parser.add_argument("--only", nargs="*", default=[""])
    parser.add_argument("--write", action="store_true")
    arguments = parser.parse_args()
    out = arguments.out if arguments.out.is_absolute() else ROOT / arguments.out
    out.mkdir(parents=True, exist_ok=True)
    if arguments.write:
        write(out)
        return
    for job in jobs():
        if any(word in job.name for word in arguments.only):
            run(job, out)


if __name__ == "__main__":
    main()
