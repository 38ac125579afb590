"""Sampling with one network by our loop and by diffusers' schedulers: the same pictures, and the time around it.

    peer    diffusers' DDIMScheduler and DPMSolverMultistepScheduler (2M, ++), each around the same U-Net
    ours    Diffusion.sample with the solvers "ddim" and "dpm++2m" over the same chain of 1000 levels

The network says σ z, the noise in white data, and a random U-Net's answer (the `ddpm` recipe's of size s) beside it.
Both start from the same noise at the same times. `difference` is the largest absolute one between the pictures; the
method being the same, it is float32's. One thread, alternating, medians of ratios, CPU seconds. Prints one JSON line.

    python benchmarks/samplers.py [batch] [steps] [rounds]
"""

import json
import statistics
import sys
import time

import torch

from sfumato.core.condition import Condition
from sfumato.core.noise import Noise
from sfumato.priors.diffusion.path import level, linear
from sfumato.priors.diffusion.solvers import configure, solve
from sfumato.recipes import build

CHAIN = {"num_train_timesteps": 1000, "beta_start": 1e-4, "beta_end": 0.02, "beta_schedule": "linear"}


class Calm(torch.nn.Module):
    """ε̂ = σ z + net(z) / 10: pictures of unit spread, without training."""

    def __init__(self, net, path):
        super().__init__()
        self.net, self.path = net, path

    def forward(self, z, t, condition):
        return level(self.path, t, z).sigma * z + self.net(z, t, condition) / 10


def scheduler(name: str):
    import diffusers

    if name == "ddim":
        theirs = diffusers.DDIMScheduler(**CHAIN, clip_sample=False, set_alpha_to_one=True, timestep_spacing="trailing")
    else:
        theirs = diffusers.DPMSolverMultistepScheduler(
            **CHAIN, algorithm_type="dpmsolver++", solver_order=2, final_sigmas_type="zero", timestep_spacing="trailing"
        )
    theirs.alphas_cumprod = (1 - theirs.betas.double()).cumprod(0)  # float32 keeps three digits of 1 − ᾱ near data
    return theirs


def main(batch: int = 8, steps: int = 20, rounds: int = 3) -> None:
    import diffusers

    torch.set_num_threads(1)
    torch.manual_seed(0)
    system = build("ddpm", side=32)
    prior = system.prior
    with torch.no_grad():
        for parameter in prior.net.exit.parameters():
            parameter.normal_(std=0.05)
    prior.net, prior.clamp = Calm(prior.net, linear()), None
    prior.eval()
    path, nobody = linear(), Condition.none(batch)
    start = Noise.each(range(batch)).normal(3, 32, 32)
    denoise = prior.denoiser(nobody)

    @torch.inference_mode()
    def peer(name: str) -> torch.Tensor:
        theirs, z = scheduler(name), start
        theirs.set_timesteps(steps)
        for k in theirs.timesteps:
            t = torch.full((batch,), (float(k) + 1) / 1000)
            z = theirs.step(prior.predict(z, t, nobody), k, z).prev_sample
        return z

    @torch.inference_mode()
    def ours(name: str) -> torch.Tensor:
        at = torch.tensor([(float(k) + 1) / 1000 for k in grids[name]] + [0.0])
        *_, last = solve(configure(name), path, denoise, start, at, lambda: torch.zeros_like(start))
        return last.z

    grids = {}
    for name in ("ddim", "dpm++2m"):
        theirs = scheduler(name)
        theirs.set_timesteps(steps)
        grids[name] = theirs.timesteps.tolist()
    found = {}
    for name in grids:
        seconds: dict[str, list[float]] = {"peer": [], "ours": []}
        pictures = {"peer": peer(name), "ours": ours(name)}
        for _ in range(rounds):
            for who, job in (("peer", peer), ("ours", ours)):
                begun = time.process_time()
                job(name)
                seconds[who].append(time.process_time() - begun)
        found[name] = {
            "difference": float((pictures["peer"] - pictures["ours"]).abs().max()),
            "spread_of_the_pictures": float(pictures["peer"].std()),
            "seconds": {who: round(statistics.median(s), 3) for who, s in seconds.items()},
            "times_faster_than_peer": round(
                statistics.median(p / o for p, o in zip(seconds["peer"], seconds["ours"])), 3
            ),
        }
    versions = {"torch": torch.__version__, "diffusers": diffusers.__version__}
    print(
        json.dumps(
            {"job": "sampling, 32 px U-Net s", "batch": batch, "steps": steps, "solvers": found, "versions": versions}
        )
    )


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
