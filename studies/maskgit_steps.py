"""How many steps does filling in take? Frechet distance over T, in three orders, beside an autoregressive prior.

Claims: about 8 steps are as good as one a position, one step is bad; what is surest first is better than a random
order, and so is a spread-out order (Halton); a concave schedule is better than a linear one and that than a convex one;
far fewer passes than autoregression, and less time. Chang et al. 2022, arXiv:2202.04200; Besnier et al. 2025,
arXiv:2503.17076.

Rules, set before the training:
    saturates     FD at 8 steps ≤ 1.10 · FD at one position a step (49, where 64 are asked for), by confidence
    one_is_bad    FD at 1 step ≥ 2 · FD at 8
    confidence    FD at 8 steps: confidence < random                 halton    FD at 8 steps: halton < random
    concave       FD at 8 steps: cosine ≤ linear < root
    passes        an autoregressive prior of the same size takes ≥ 5 times the passes of 8 steps
    faster        and ≥ 5 times the seconds, with its cache, one picture at a time (also reported: 64, and without)
    revealed      nats of a hidden token fall with every step from 1/49 to 48/49 of the positions shown
"""

from __future__ import annotations

import itertools
import statistics
import time

import torch
from common import canvas, show, write
from token_common import draw, material, prior, score, tokens

from sfumato.core.noise import Noise

STEPS = (1, 2, 4, 8, 16, 32, 64)
ORDERS = ("confidence", "random", "halton")
SCHEDULES = ("cosine", "square", "linear", "root")
SHOWN = (1, 6, 12, 24, 36, 43, 48)  # of 49 positions
N = 600


@torch.no_grad()
def nats_by_shown(system, n: int = 3000) -> dict[int, float]:
    """Mean cost of one hidden token, the same for every number of others shown, and each order of showing them too: so
    the points differ by what is shown alone. Each of the n pictures has three such tokens."""
    z, said = tokens("test")[:n], {"label": material("test")["label"][:n]}
    condition, found = system.conditioner(said), dict.fromkeys(SHOWN, 0.0)
    rows = torch.arange(len(z))
    for k in range(3):
        order = Noise.shared(k, len(z)).uniform(z.shape[1]).argsort(1).argsort(1)  # who is last of all is asked for
        asked = order.argmax(1)
        for shown in SHOWN:
            at = system.prior.head(system.prior.net(z, order >= shown, condition), dim=-1).log_prob(z)
            found[shown] -= float(at[rows, asked].mean()) / 3
    return {shown: round(cost, 4) for shown, cost in found.items()}


def seconds(system, batch: int, rounds: int = 5, **options) -> float:
    """Of a picture: the median over rounds, the codec's decoding left out."""
    condition = system.conditioner({"label": torch.arange(batch) % 10})
    spent = []
    for r in range(rounds + 1):
        begun = time.process_time()
        system.prior.sample(condition, Noise.each(range(r * batch, (r + 1) * batch)), **options)
        spent.append((time.process_time() - begun) / batch)
    return statistics.median(spent[1:])


@torch.no_grad()
def without_cache(system, batch: int) -> float:
    """Seconds of a picture by 49 passes over all positions, as published comparisons of passes have it."""
    z, said = tokens("test")[:batch], system.conditioner({"label": torch.arange(batch) % 10})
    begun = time.process_time()
    for _ in range(z.shape[1]):
        system.prior.net(z, said)
    return (time.process_time() - begun) / batch


def by_order(system) -> tuple[dict[str, dict[int, dict[str, float]]], dict[int, torch.Tensor]]:
    """({order: {steps: scores}}, {steps: pictures by confidence})."""
    scores: dict[str, dict[int, dict[str, float]]] = {}
    pictures = {}
    for order in ORDERS:
        scores[order] = {}
        for steps in STEPS:
            images = draw(system, N, steps=steps, order=order)
            scores[order][steps] = score(images)
            if order == "confidence":
                pictures[steps] = images[:20]
    return scores, pictures


def speeds(masked, chain) -> dict[str, dict[str, float]]:
    """{pictures at once: {system: seconds a picture}}."""
    return {
        str(batch): {
            "maskgit_8": seconds(masked, batch, steps=8),
            "autoregressive": seconds(chain, batch),
            "autoregressive_uncached": without_cache(chain, batch),
        }
        for batch in (1, 64)
    }


def drawn(by_steps, autoregressive: dict[str, float], nats: dict[int, float], pictures: dict[int, torch.Tensor]):
    figure, axes = canvas(4, 1)
    for order in ORDERS:
        axes[0, 0].loglog(STEPS, [by_steps[order][s]["fd"] for s in STEPS], "o-", label=order)
    axes[0, 0].axhline(autoregressive["fd"], ls="--", color="grey", label="autoregressive, 49 passes")
    axes[0, 0].set(
        xlabel="steps (64: one position a step)", ylabel="Fréchet distance", title="More steps, up to about 8"
    )
    axes[0, 0].legend()
    for order in ORDERS:
        axes[0, 1].semilogx(STEPS, [by_steps[order][s]["accuracy"] for s in STEPS], "o-", label=order)
    axes[0, 1].axhline(autoregressive["accuracy"], ls="--", color="grey")
    axes[0, 1].set(xlabel="steps", ylabel="read as the label asked for", title="Fidelity")
    axes[0, 2].plot([s / 49 for s in SHOWN], list(nats.values()), "o-")
    axes[0, 2].set(xlabel="part of the positions shown", ylabel="nats of a hidden token", title="What is shown helps")
    show(axes[0, 3], torch.cat([pictures[s][:10] for s in (1, 2, 4, 8, 64)]), 10, "1, 2, 4, 8, 64 steps")
    return figure


def main() -> None:
    torch.set_num_threads(1)
    masked, learned = prior("maskgit")
    chain, learned_ar = prior("vq-ar")
    by_steps, pictures = by_order(masked)
    by_schedule = {name: score(draw(masked, N, steps=8, schedule=name)) for name in SCHEDULES}
    autoregressive = score(draw(chain, N))
    speed = speeds(masked, chain)
    faster = {
        batch: {job: round(s[job] / s["maskgit_8"], 2) for job in ("autoregressive", "autoregressive_uncached")}
        for batch, s in speed.items()
    }
    nats = nats_by_shown(masked)
    fd = {order: {steps: s["fd"] for steps, s in rows.items()} for order, rows in by_steps.items()}
    schedules = {name: s["fd"] for name, s in by_schedule.items()}
    holds = {
        "saturates": fd["confidence"][8] <= 1.10 * fd["confidence"][64],
        "one_is_bad": fd["confidence"][1] >= 2 * fd["confidence"][8],
        "confidence": fd["confidence"][8] < fd["random"][8],
        "halton": fd["halton"][8] < fd["random"][8],
        "concave": schedules["cosine"] <= schedules["linear"] < schedules["root"],
        "passes": tokens("test").shape[1] / 8 >= 5,
        "faster": faster["1"]["autoregressive"] >= 5,
        "revealed": all(nats[a] > nats[b] for a, b in itertools.pairwise(SHOWN)),
    }
    figures = {
        "by_order_and_steps": by_steps,
        "by_schedule_at_8_steps": by_schedule,
        "autoregressive": autoregressive,
        "seconds_a_picture_by_batch": {b: {k: round(v, 5) for k, v in s.items()} for b, s in speed.items()},
        "times_faster_than_autoregressive": faster,
        "nats_of_a_hidden_token_by_positions_shown": nats,
        "training_cpu_seconds": {"maskgit": learned, "vq-ar": learned_ar},
        "pictures_scored": N,
    }
    write(
        "maskgit_steps",
        "Masked tokens are filled in within about 8 steps, surest first, far sooner than one by one",
        "arXiv:2202.04200, arXiv:2503.17076",
        holds,
        figures,
        drawn(by_steps, autoregressive, nats, pictures),
    )


if __name__ == "__main__":
    main()
