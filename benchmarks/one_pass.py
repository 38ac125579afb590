"""What one pass, or a few, saves: a deep VAE beside diffusion, filling in beside one token after another.

    deep       a deep VAE, one pass, and a U-Net in 50 steps of DDIM; the U-Net as wide as gives the same parameters
    masked     MaskGIT in 8 steps, and an autoregressive transformer of the same width, depth and vocabulary, which
               keeps what it computed ("cached") or looks at everything again for every token ("uncached": what the
               usual code without a cache does; only where it takes less than a minute)

Random weights: they cost what trained ones do. Seconds a picture of the prior alone: the processor's with one thread,
the clock's with more, from which only what is done at once gains. The two of a case alternate, and the ratios are
medians over rounds. Prints one JSON line.

    python benchmarks/one_pass.py [rounds [threads]]
"""

import json
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import replace

import torch
from autoregressive import uncached

from sfumato.core.condition import Condition
from sfumato.core.contracts import Prior
from sfumato.core.noise import Noise
from sfumato.core.space import Grid, Tokens
from sfumato.likelihoods import Categorical, Normal
from sfumato.priors.autoregressive import Autoregressive
from sfumato.priors.diffusion import Diffusion, scaled_linear
from sfumato.priors.hierarchical import Hierarchical
from sfumato.priors.masked import Masked
from sfumato.recipes.given import Doors
from sfumato.recipes.networks import causal, ladder, masked, unet
from sfumato.recipes.sizes import DEEP_VAE, LATENT_UNET, MASKED, TOKEN_GPT

DEEP = [("s", Grid(8, 8, 8), 16), ("m", Grid(8, 16, 16), 1), ("m", Grid(8, 16, 16), 4)]
FILL = [("s", 64, 1), ("s", 256, 1), ("s", 256, 16), ("s", 1024, 1), ("m", 256, 1)]
VOCAB, UNCACHED = 1024, 256


def count(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def deep(size: str, space: Grid) -> Prior:
    net = ladder(DEEP_VAE[size], space, 2 * space.channels, Doors())
    return Hierarchical(space, net, Normal("element"), sigma=0.07, reach=4).eval()


def diffusion(size: str, space: Grid, wanted: int) -> Prior:
    """The U-Net of that size, with the width (and heads of 8) that comes nearest to the wanted count."""
    dims = LATENT_UNET[size]
    sized = [replace(dims, width=width, head=8) for width in range(32, 257, 8)]
    with torch.device("meta"):
        dims = min(sized, key=lambda d: abs(count(unet(d, space.channels, space.channels, Doors())) - wanted))
    net = unet(dims, space.channels, space.channels, Doors())
    return Diffusion(space, net, path=scaled_linear(), target="v", levels=1000, steps=50, solver="ddim").eval()


def draw(prior: Prior, batch: int) -> Callable[[], object]:
    return lambda: prior.sample(Condition.none(batch), Noise.each(range(batch)))


def alternate(jobs: dict[str, Callable[[], object]], batch: int, rounds: int) -> tuple[dict, dict]:
    """({job: seconds a picture}, {job: times the first's}), medians over rounds after one that warms up."""
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    spent: dict[str, list[float]] = {name: [] for name in jobs}
    for r in range(rounds + 1):
        for name, job in jobs.items():
            begun = clock()
            job()
            spent[name] += [(clock() - begun) / batch] if r else []
    first, *others = spent
    ratio = {n: statistics.median(b / a for a, b in zip(spent[first], spent[n])) for n in others}
    return (
        {n: round(statistics.median(s), 5) for n, s in spent.items()},
        {n: round(value, 1) for n, value in ratio.items()},
    )


def hierarchy(size: str, space: Grid, batch: int, rounds: int) -> dict:
    one = deep(size, space)
    many = diffusion(size, space, count(one))
    seconds, times = alternate({"one pass": draw(one, batch), "diffusion": draw(many, batch)}, batch, rounds)
    parameters = {"one pass": count(one), "diffusion": count(many)}
    return {
        "latent": str(space),
        "batch": batch,
        "parameters": parameters,
        "seconds_a_picture": seconds,
        "times": times,
    }


def filling(size: str, tokens: int, batch: int, rounds: int) -> dict:
    side = round(tokens**0.5)
    space = Tokens(tokens, VOCAB, (side, side))
    fill = Masked(space, masked(MASKED[size], space, Doors()), Categorical(VOCAB), steps=8).eval()
    one = Autoregressive(space, causal(TOKEN_GPT[size], space, Doors()), Categorical(VOCAB)).eval()
    jobs: dict[str, Callable[[], object]] = {"masked": draw(fill, batch), "cached": draw(one, batch)}
    if size == "s" and tokens * batch <= UNCACHED:
        jobs["uncached"] = lambda: uncached(one, batch, tokens)
    seconds, times = alternate(jobs, batch, rounds)
    parameters = {"masked": count(fill), "autoregressive": count(one)}
    return {
        "tokens": tokens,
        "batch": batch,
        "parameters": parameters,
        "seconds_a_picture": seconds,
        "times": times,
    }


def main(rounds: int = 3, threads: int = 1) -> None:
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    found = {
        "job": "one_pass",
        "threads": threads,
        "deep": [hierarchy(*case, rounds) for case in DEEP],
        "masked": [filling(*case, rounds) for case in FILL],
        "versions": {"torch": torch.__version__},
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
