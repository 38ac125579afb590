"""A training step of Glow (three levels of eight steps, width 256, 3 × 32 × 32, batch 16): ours beside normflows.

    peer    normflows' MultiscaleFlow of GlowBlocks with LU-decomposed 1×1 convolutions, as its example builds it
    ours    the same maps and widths, and besides actnorm in the couplings' networks, the frame around their input,
            and learned priors of splits and top; fp32, and networks in bf16 (the state of the flow stays fp32)

Loss, gradient and the same fused AdamW; one thread; alternating; medians of ratios of CPU seconds, which count what the
system spends on fresh memory. What bf16 costs in quality: the same 40 steps from the same start, and the nats a
dimension at their end. Prints one JSON line. The peer is not among this project's packages:

    pip install --target peers normflows==1.7.3 --no-deps
    PYTHONPATH=peers python benchmarks/glow.py [width] [rounds]
"""

import copy
import json
import statistics
import sys
import time
import warnings

import torch

from sfumato.core.condition import Condition
from sfumato.core.noise import Noise
from sfumato.core.space import Grid
from sfumato.nn.pictures.glow import Glow
from sfumato.priors.flow import Flow

LEVELS, STEPS, BATCH, SPACE = 3, 8, 16, Grid(3, 32, 32)


def by_peer(width: int):
    """Its levels count from the coarsest."""
    import normflows as nf

    bases, merges, flows = [], [], []
    for i in range(LEVELS):
        channels, side = SPACE.channels * 2 ** (LEVELS + 1 - i), SPACE.height // 2 ** (LEVELS - i)
        block = lambda c=channels: nf.flows.GlowBlock(c, width, split_mode="channel", scale=True)
        flows.append([*(block() for _ in range(STEPS)), nf.flows.Squeeze()])
        merges += [nf.flows.Merge()] if i else []
        shape = (channels // (2 if i else 1), side, side)
        bases.append(nf.distributions.DiagGaussian(shape))
    return nf.MultiscaleFlow(bases, flows, merges)


def main(width: int = 256, rounds: int = 15) -> None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            peer = by_peer(width)
    except ImportError:
        print(
            "The peer is not installed. `pip install --target peers normflows==1.7.3 --no-deps`, then\n"
            "`PYTHONPATH=peers python benchmarks/glow.py`.",
            file=sys.stderr,
        )
        sys.exit(2)
    torch.set_num_threads(1)
    torch.manual_seed(0)
    x, none, noise = torch.rand(BATCH, *SPACE.shape) - 0.5, Condition.none(BATCH), Noise.ambient(BATCH)
    ours = Flow(SPACE, Glow(SPACE, levels=LEVELS, steps=STEPS, width=width))
    ours.prepare(lambda: [(x, none)])
    half = copy.deepcopy(ours)
    optimizers = {
        name: torch.optim.AdamW(module.parameters(), lr=1e-3, fused=True)
        for name, module in (("peer", peer), ("fp32", ours), ("bf16", half))
    }

    def step(name: str) -> float:
        optimizers[name].zero_grad()
        if name == "peer":
            loss = peer.forward_kld(x)
        else:
            with torch.autocast("cpu", torch.bfloat16, enabled=name == "bf16"):
                loss = (half if name == "bf16" else ours).loss(x, none, noise)["nats"]
        loss.backward()
        optimizers[name].step()
        return float(loss.detach())

    seconds: dict[str, list[float]] = {name: [] for name in optimizers}
    for name in optimizers:
        step(name)
    for _ in range(rounds):
        for name in optimizers:
            begun = time.process_time()
            step(name)
            seconds[name].append(time.process_time() - begun)
    nats = {}
    for name in ("fp32", "bf16"):
        for _ in range(40 - rounds):
            step(name)
        nats[name] = step(name)
    print(
        json.dumps(
            {
                "job": f"glow training step, L{LEVELS} K{STEPS} width {width}, 3×32×32, batch {BATCH}",
                "rounds": rounds,
                "cpu_seconds": {n: round(statistics.median(s), 4) for n, s in seconds.items()},
                "times_faster_than_peer": {
                    n: round(statistics.median(p / o for p, o in zip(seconds["peer"], seconds[n])), 2)
                    for n in ("fp32", "bf16")
                },
                "parameters": {n: sum(p.numel() for p in m.parameters()) for n, m in (("peer", peer), ("ours", ours))},
                "nats_per_dim_after_40_steps": {n: round(v, 4) for n, v in nats.items()},
                "versions": {"torch": torch.__version__, "normflows": _version("normflows")},
            }
        )
    )


def _version(package: str) -> str:
    from importlib.metadata import version

    return version(package)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
