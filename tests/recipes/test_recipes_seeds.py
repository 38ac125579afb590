"""E10 for every prior there is: a picture is its seed's, whoever is drawn beside it, and whichever process draws it."""

import os
import subprocess
import sys

import pytest
import torch

from sfumato import recipes

SIDE = {"pixel-ar": 8}
PRIORS = ["ddpm", "edm", "rectified-flow", "pixel-ar", "ldm", "dit", "vq-ar", "cascade", "gan", "latent-gan"]
DRAW = """
import sys, torch
from sfumato import recipes
torch.set_num_threads(1)
torch.manual_seed(0)
name, side, seeds, place = sys.argv[1], int(sys.argv[2]), [int(s) for s in sys.argv[3].split(",")], sys.argv[4]
system = recipes.build(name, size="xs", side=side, classes=3).eval()
with torch.no_grad():
    for p in system.parameters():
        p.add_(0.02 * torch.randn_like(p))  # zero-initialised exits would hide what the rest computes
options = {} if name in ("pixel-ar", "vq-ar", "gan", "latent-gan") else {"steps": 3}
labels = [seed % 3 for seed in seeds]
x = system.sample(len(seeds), {"label": labels}, seeds=seeds, guidance=2.0, batch=2, **options)
from safetensors.torch import save_file
save_file({"x": x.contiguous()}, place)
"""


def draw(name, seeds, place):
    command = [sys.executable, "-c", DRAW, name, str(SIDE.get(name, 16)), ",".join(map(str, seeds)), str(place)]
    return subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"})


@pytest.mark.parametrize("name", PRIORS)
def test_a_picture_depends_on_its_own_seed_alone(name, tmp_path):
    """Bitwise: seeds 3, 4, 5 in one process; 5 in another, beside 9 that comes first; and alone, padded."""
    from safetensors.torch import load_file

    jobs = {"whole": [3, 4, 5], "turned": [9, 5], "alone": [4]}
    running = [draw(name, seeds, tmp_path / key) for key, seeds in jobs.items()]
    assert [process.wait(timeout=300) for process in running] == [0, 0, 0]
    whole, turned, alone = (load_file(tmp_path / key)["x"] for key in jobs)
    assert torch.equal(whole[2], turned[1])
    assert torch.equal(whole[1], alone[0])
    assert not torch.equal(whole[0], whole[1])


def test_the_table_of_priors_is_complete():
    assert set(PRIORS) == {n for n, r in recipes.RECIPES.items() if "classes" in r.dials}
