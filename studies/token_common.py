"""What the studies of priors over tokens share: MNIST at 28 px, one VQ-VAE (7 × 7 tokens of 512), priors of one size,
and a judge. Each is trained once, with the plan of its recipe at size s cut to the steps below, and kept in
runs/studies; what is missing there is trained, so that every study runs alone too.

    fd          Fréchet distance to 5000 training pictures, on the judge's pooled features
    accuracy    the part that the judge reads as the label that was asked for
    coverage, density, precision, recall    on the same features (sfumato.metrics.neighbourhoods)
"""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache
from typing import Any

import torch
from common import ROOT, Memory, cpu_seconds, learn, pictures
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from sfumato import recipes
from sfumato.metrics import Classifier, fit_classifier, frechet_distance, neighbourhoods
from sfumato.systems import System

SET, SIDE, CLASSES = "../shared/data/mnist", 28, 10
KEPT = ROOT / "runs" / "studies"
STEPS = {"vqvae": 2_500, "maskgit": 3_500, "vq-ar": 3_500}  # chosen from the seconds a step takes, before any ran
BATCH = {"vqvae": 16, "maskgit": 16, "vq-ar": 16}
REAL = 5_000


@cache
def material(split: str) -> dict[str, Any]:
    return pictures(str((ROOT / SET).resolve()), SIDE, 1, split, most=30_000 if split == "train" else 3_000)


def kept(name: str, module: nn.Module, train) -> float:
    """Fills the module from runs/studies, or trains it; the CPU seconds that its training took."""
    weights, record = KEPT / f"{name}.safetensors", KEPT / f"{name}.json"
    if weights.exists():
        module.load_state_dict(load_file(weights))
        module.eval()
        return float(json.loads(record.read_text())["cpu_seconds"])
    begun = cpu_seconds()
    with torch.enable_grad():  # whoever asks first may be drawing
        train()
    KEPT.mkdir(parents=True, exist_ok=True)
    save_file({key: value.contiguous() for key, value in module.state_dict().items()}, weights)
    seconds = round(cpu_seconds() - begun, 1)
    record.write_text(json.dumps({"cpu_seconds": seconds}))
    return seconds


@cache
def vqvae() -> System:
    torch.manual_seed(0)
    system = recipes.build("vqvae", size="s", side=SIDE, channels=1)
    data = Memory({"image": material("train")["image"]}, BATCH["vqvae"])
    plan = replace(recipes.plan("vqvae", "codec", "s"), steps=STEPS["vqvae"])
    kept("vqvae", system.codec, lambda: learn(system.codec, data, plan, say="vqvae"))
    return system.eval()


@cache
def tokens(split: str) -> Tensor:
    return vqvae().encode(material(split)["image"], batch=256)


@cache
def prior(name: str, classes: int = CLASSES) -> tuple[System, float]:
    """maskgit or vq-ar over the VQ-VAE's tokens, given labels or nothing, and its training's CPU seconds."""
    torch.manual_seed(0)
    system = recipes.build(name, size="s", side=SIDE, channels=1, classes=classes)
    system.codec.load_state_dict(vqvae().codec.state_dict())
    data = Memory({"latent": tokens("train"), "label": material("train")["label"]}, BATCH[name])
    plan = replace(recipes.plan(name, "prior", "s"), steps=STEPS[name])
    said = name if classes else f"{name}-unconditional"
    seconds = kept(said, system, lambda: learn(system, data, plan, say=said))
    return system.eval(), seconds


class _Rows:
    def __init__(self, rows: dict[str, Any]):
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows["image"])

    def batch(self, index) -> dict[str, Any]:
        index = torch.as_tensor(list(index))
        return {"image": self.rows["image"][index], "label": self.rows["label"][index]}


@cache
def judge() -> Classifier:
    found = Classifier(1, SIDE, CLASSES, width=16)

    def train() -> None:
        fitted = fit_classifier(_Rows(material("train")), steps=600, width=16)
        found.load_state_dict(fitted.state_dict())

    kept("judge", found, train)
    return found.eval()


@torch.no_grad()
def features(images: Tensor) -> Tensor:
    levels = ((images + 1) * 127.5).round() / 127.5 - 1  # as they would be in a file
    return torch.cat([judge().pooled(part) for part in levels.split(250)])


@cache
def real(n: int) -> Tensor:
    return features(material("train")["image"][:n])


def labels(n: int) -> Tensor:
    return torch.arange(n) % CLASSES


def draw(system: System, n: int, batch: int = 100, **options: Any) -> Tensor:
    """Picture i has seed i and the label i mod 10."""
    said = {"label": labels(n)} if system.conditioner is not None else None
    return system.sample(n, said, batch=batch, **options)


def score(images: Tensor) -> dict[str, float]:
    found = features(images)
    near = neighbourhoods(real(len(images)), found)
    right = (judge().predict(images) == labels(len(images))).double().mean()
    return {
        "fd": round(frechet_distance(real(REAL), found), 4),
        "accuracy": round(float(right), 4),
        "precision": round(near.precision, 4),
        "recall": round(near.recall, 4),
        "coverage": round(near.coverage, 4),
    }
