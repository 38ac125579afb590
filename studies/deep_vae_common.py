"""What the three studies of hierarchical VAEs share: MNIST, its latents by a DAE, a judge, and how a prior is scored.

The judge is a small classifier of real digits. `accuracy` is how often it sees the digit that was asked for; `fd` is a
Fréchet distance in its pooled features between draws and held-out digits; `diversity` is the variance of those features
within a class, over that of held-out digits (1: as varied as they are).
"""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass, replace
from typing import Any

import torch
from common import Memory, learn, pictures
from torch import Tensor

from sfumato import recipes
from sfumato.codecs.autoencoder import AutoEncoder
from sfumato.core.noise import Noise
from sfumato.data import open_data
from sfumato.metrics.classifier import Classifier, accuracy, fit_classifier
from sfumato.metrics.frechet import frechet_distance
from sfumato.systems import System

DATA = "../shared/data/mnist"
SIDE, CLASSES, TRAIN, TEST = 28, 10, 20_000, 2_000


@dataclass
class Set:
    train: dict[str, Any]
    test: dict[str, Any]
    judge: Classifier
    features: Tensor  # of the test digits

    @torch.inference_mode()
    def seen(self, images: Tensor) -> Tensor:
        return torch.cat([self.judge.pooled(part) for part in images.split(250)])


def digits() -> Set:
    train, test = (pictures(DATA, SIDE, 1, part, most) for part, most in (("train", TRAIN), ("test", TEST)))
    judge = fit_classifier(open_data(DATA, side=SIDE, channels=1), 800, width=16).eval()
    right = accuracy(judge, open_data(DATA, side=SIDE, channels=1, split="test"))
    print(f"the judge is right on {right:.4f} of held-out digits", file=sys.stderr)
    found = Set(train, test, judge, torch.zeros(0))
    found.features = found.seen(test["image"])
    return found


def autoencoder(data: Set, steps: int = 3_000) -> tuple[AutoEncoder, float]:
    """A trained DAE, and the CPU seconds that it took: 28 × 28 pixels become 7 × 7 × 8."""
    torch.manual_seed(0)
    codec = recipes.build("dae", size="s", side=SIDE, channels=1, factor=4, depth=8).codec
    assert isinstance(codec, AutoEncoder)
    plan = replace(recipes.plan("dae", "codec", "s"), steps=steps, batch=16)
    found = learn(codec.train(), Memory({"image": data.train["image"]}, plan.batch), plan, say="dae")
    return codec, found["cpu_seconds"]


def latents(codec: AutoEncoder, rows: dict[str, Any]) -> dict[str, Any]:
    return {"latent": System(codec).encode(rows["image"], 500), "label": rows["label"]}


def diversity(features: Tensor, labels: Tensor) -> float:
    spread = [features[labels == k].var(0).sum() for k in range(CLASSES) if int((labels == k).sum()) > 1]
    return float(torch.stack(spread).mean())


def score(system: System, data: Set, n: int = 1_000, **options: Any) -> dict[str, float]:
    """n draws, the classes in turn. `ms` is processor time a picture, decoding included."""
    labels = torch.arange(n) % CLASSES
    begun = time.process_time()
    images = system.sample(n, {"label": labels}, batch=100, **options)
    spent = time.process_time() - begun
    features = data.seen(images)
    return {
        "accuracy": round(float((data.judge.predict(images) == labels).double().mean()), 4),
        "diversity": round(diversity(features, labels) / diversity(data.features, data.test["label"]), 4),
        "fd": round(frechet_distance(features.double(), data.features.double()), 4),
        "ms": round(1000 * spent / n, 2),
    }


@torch.no_grad()
def bound(system: System, rows: dict[str, Any], n: int = TEST) -> float:
    """The mean over held-out rows of −log p's bound, in nats per entry of the prior's space."""
    assert system.prior is not None
    given, z = {"label": rows["label"][:n]}, rows["latent"][:n]
    nats = []
    for start in range(0, n, 250):
        part = slice(start, start + 250)
        condition = system.conditioner({"label": given["label"][part]}) if system.conditioner is not None else None
        assert condition is not None
        nats.append(system.prior.log_prob(z[part], condition, Noise.shared(start, len(z[part]))))
    return float(-torch.cat(nats).mean() / z[0].numel())
