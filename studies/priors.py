"""All priors over the same latents of the same pictures, with the same minutes each: for docs/results.md.

    python studies/priors.py --out runs/priors                  all jobs, one after the other, on one thread
    python studies/priors.py --out runs/priors --only vae gan   those over that codec, with that prior, or of that name
    python studies/priors.py --out runs/priors --time           the seconds a picture takes, in one process, alternating

Three codecs are trained once on the full emoji set at 32 pixels (a VQ-VAE, a VAE, a DAE: 8 × 8 positions each), then
every prior that fits its kind of latent, given the emoji's group as label, for the same minutes by the clock: leave
each process a core of its own. Processor minutes are noted, to tell whether that was so. Nothing is left out for
looking bad. `results.py --write` writes the page.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shlex
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from records import ROOT, keep, sheet

DATA = "../shared/data/emoji"
MINUTES = 5.0  # of the clock and of one thread, for the prior alone
SCORED, TIMED, ROUNDS = 500, 16, 3
CODECS = {"vqvae": ([], 5_000), "vae": (["--factor", "4", "--depth", "8", "--beta", "0.001"], 5_000)}
CODECS |= {"dae": (["--depth", "8"], 5_000)}
PRIORS = {
    "vqvae": ("autoregressive", "masked"),
    "vae": ("autoregressive", "ar-diffusion", "masked", "flow", "hierarchical", "diffusion"),
    "dae": ("autoregressive", "masked", "flow", "hierarchical", "diffusion", "dit", "gan", "gud"),
}
# Recipes of their own: one has a basis, the other a small diffusion at each position instead of a mixture
NAMED = {"gud": ["gud-latent"], "ar-diffusion": ["latent-ar", "--head", "diffusion"]}


@dataclass(frozen=True)
class Job:
    codec: str
    prior: str

    @property
    def name(self) -> str:
        return f"{self.codec}-{self.prior}"

    @property
    def recipe(self) -> list[str]:
        """Its name, and dials of its own."""
        return NAMED.get(self.prior, [f"{self.codec}+{self.prior}"])


def jobs() -> list[Job]:
    return [Job(codec, prior) for codec, priors in PRIORS.items() for prior in priors]


def sfumato(*words: object) -> float:
    """Runs the command; the processor seconds that it took."""
    typed = [str(word) for word in words]
    print("$", shlex.join(["sfumato", *typed]), flush=True)
    begun = resource.getrusage(resource.RUSAGE_CHILDREN)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, "-m", "sfumato", *typed], check=True, cwd=ROOT, env=environment)
    spent = resource.getrusage(resource.RUSAGE_CHILDREN)
    return spent.ru_utime + spent.ru_stime - begun.ru_utime - begun.ru_stime


def codec(name: str, out: Path) -> Path:
    place, (dials, steps) = out / name, CODECS[name]
    if not (place / "model").exists():
        sfumato("train", name, DATA, "--side", 32, "--steps", steps, "--out", place, "--score", 0, *dials)
    return place


def run(job: Job, out: Path) -> None:
    record = out / f"{job.name}.json"
    if record.exists():
        return
    given = ["--from", f"codec={codec(job.codec, out)}", "--score", 0, "--precision", "bf16"]
    recipe, *dials = job.recipe
    begin = ["train", recipe, DATA, "--classes", 11, *dials, *given]
    place = out / job.name
    spent = sfumato(*begin, "--minutes", MINUTES, "--out", place)
    metrics = ["fd", "kd", "precision", "recall", "coverage"]
    metrics += [] if job.codec == "dae" or job.prior == "gan" else ["bits"]
    sfumato("score", place, DATA, "--metrics", *metrics, "-n", SCORED, "--split", "train")
    command = [sys.executable, "-m", "sfumato", "info", str(place), "--json"]
    about = json.loads(subprocess.run(command, check=True, cwd=ROOT, capture_output=True, text=True).stdout)
    scores = json.loads((place / "scores.json").read_text())["scores"]
    found = {
        "steps": about["steps"],
        "minutes": MINUTES,
        "cpu_minutes": round(spent / 60, 1),
        "parameters": about["parameters"],
    }
    found |= {"scores": scores}
    found |= {"command": shlex.join(["sfumato", *map(str, [*begin, "--minutes", MINUTES, "--out", place])])}
    record.write_text(json.dumps(found | {"when": time.strftime("%Y-%m-%d")}, indent=1))


def clock(out: Path) -> None:
    """Processor seconds of a picture, in batches of TIMED: the median of rounds in which all systems take turns."""
    import torch

    from sfumato import load

    torch.set_num_threads(1)
    done = [job for job in jobs() if (out / f"{job.name}.json").exists()]
    systems = {job.name: load(out / job.name) for job in done}
    given = {"label": torch.arange(TIMED) % 11}
    spent: dict[str, list[float]] = {name: [] for name in systems}
    for turn in range(ROUNDS + 1):  # the first loads code
        for name, system in systems.items():
            begun = time.process_time()
            system.sample(TIMED, given, seeds=range(TIMED), batch=TIMED)
            spent[name] += [(time.process_time() - begun) / TIMED] if turn else []
    for name, seconds in spent.items():
        record = out / f"{name}.json"
        found = json.loads(record.read_text()) | {"cpu_seconds_per_picture": round(statistics.median(seconds), 5)}
        record.write_text(json.dumps(found, indent=1) + "\n")


COLUMNS = ("fd", "kd", "precision", "recall", "coverage", "bits")


def section(out: Path) -> list[str]:
    """The table and the page of samples, as lines of docs/results.md; empty where nothing was run."""
    done = keep(out, jobs())
    if not done:
        return []
    every = {name for _, found in done for name in found["scores"]}
    names = [next((n for n in every if n.split("-")[0].split("@")[0] == column), column) for column in COLUMNS]
    about = (ROOT / "docs" / "results.priors.md").read_text().rstrip().splitlines()
    heads = ["latent", "prior", *(f"`{n}`" for n in names), "CPU s / picture", "parameters", "steps", "CPU minutes"]
    lines = ["", *about, "", "| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    for job, found in done:
        row = [f"{found['scores'][n]:.4g}" if n in found["scores"] else "–" for n in names]
        size = f"{found['parameters']['prior'] / 1e6:.2f} M"
        row += [f"{found['cpu_seconds_per_picture']:.3g}", size, str(found["steps"]), str(found["cpu_minutes"])]
        lines.append(f"| {job.codec} | {job.prior} | " + " | ".join(row) + " |")
    sheet([Titled(job) for job, _ in done], out, ROOT / "docs" / "pictures" / "results-priors.png")
    lines += ["", "![Samples of every prior](pictures/results-priors.png)"]
    lines += ["", "<details><summary>The commands</summary>", "", "```"]
    return lines + [found["command"].replace(str(out), "runs/priors") for _, found in done] + ["```", "", "</details>"]


@dataclass(frozen=True)
class Titled:
    """A job as records.sheet wants it: the run's name, and what to write above its grid."""

    job: Job

    @property
    def name(self) -> str:
        return self.job.name

    @property
    def recipe(self) -> str:
        return f"{self.job.codec} · {self.job.prior}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/priors"))
    parser.add_argument("--only", nargs="*", default=[])
    parser.add_argument("--time", action="store_true")
    arguments = parser.parse_args()
    out = arguments.out if arguments.out.is_absolute() else ROOT / arguments.out
    out.mkdir(parents=True, exist_ok=True)
    if arguments.time:
        clock(out)
        return
    for job in jobs():
        if not arguments.only or {job.codec, job.prior, job.name} & {*arguments.only}:
            run(job, out)


if __name__ == "__main__":
    main()
