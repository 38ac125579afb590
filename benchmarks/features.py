"""Feature extraction of the FID's size: Inception-v3 at 299 px, ours beside the same network as pytorch-fid runs it.

    peer    fp32, batch norm as it stands, channels first (pytorch-fid's way; its weights and torchvision are not at
            hand, so the architecture is ours, with random weights: the arithmetic is the same)
    ours    batch norm folded, channels last; fp32 and bf16

One thread; alternating; medians of ratios. With bf16, its cost in quality: the Fréchet distance between the two
precisions' features of the same pictures, beside that between two halves of the set. Prints one JSON line.

    python benchmarks/features.py [batch] [rounds]
"""

import json
import statistics
import sys
import time

import torch

from sfumato.metrics.features import Features
from sfumato.metrics.frechet import frechet_distance
from sfumato.metrics.inception import InceptionV3


def settled() -> InceptionV3:
    """Random weights at He's scale, so that activations neither vanish nor explode."""
    g = torch.Generator().manual_seed(0)
    network = InceptionV3().eval()
    for module in network.modules():
        if isinstance(module, torch.nn.Conv2d):
            drawn = torch.randn(module.weight.shape, generator=g)
            module.weight.data = drawn * (2 / module.weight[0].numel()) ** 0.5
    return network


def main(batch: int = 8, rounds: int = 5) -> None:
    torch.set_num_threads(1)
    x = torch.rand(batch, 3, 64, 64, generator=torch.Generator().manual_seed(1)) * 2 - 1
    peer = settled()

    @torch.inference_mode()
    def by_peer(images):
        return peer.pooled(torch.nn.functional.interpolate(images, (299, 299), mode="bilinear", align_corners=False))

    made = {"name": "inception", "dims": 2048, "side": 299, "hash": "", "antialias": False}
    jobs = {
        "peer": by_peer,
        "fp32": Features(settled(), **made),
        "bf16": Features(settled(), **made, dtype=torch.bfloat16),
    }
    seconds: dict[str, list[float]] = {name: [] for name in jobs}
    for job in jobs.values():
        job(x)
    for _ in range(rounds):
        for name, job in jobs.items():
            begun = time.process_time()
            job(x)
            seconds[name].append(time.process_time() - begun)
    g = torch.Generator().manual_seed(2)
    flat = torch.rand(48, 3, 1, 1, generator=g) * torch.ones(1, 1, 64, 64)
    pictures = (flat + 0.3 * torch.randn(48, 3, 64, 64, generator=g)).clamp(0, 1) * 2 - 1
    full, half = (torch.cat([jobs[d](part) for part in pictures.split(16)]) for d in ("fp32", "bf16"))
    print(
        json.dumps(
            {
                "job": "inception features, 299 px",
                "batch": batch,
                "rounds": rounds,
                "images_per_cpu_second": {n: round(batch / statistics.median(s), 2) for n, s in seconds.items()},
                "times_faster_than_peer": {
                    n: round(statistics.median(p / o for p, o in zip(seconds["peer"], seconds[n])), 2)
                    for n in ("fp32", "bf16")
                },
                "fp32_relative_error": float((jobs["fp32"](x) - by_peer(x)).norm() / by_peer(x).norm()),
                "bf16_frechet_to_fp32": frechet_distance(full, half),
                "frechet_of_two_halves": frechet_distance(full[:24], full[24:]),
                "versions": {"torch": torch.__version__},
            }
        )
    )


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
