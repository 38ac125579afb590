"""E10 for every prior there is: a picture is its seed's, whoever is drawn beside it, and whichever process draws it."""

import os
import subprocess
import sys

import pytest
import torch

from sfumato import recipes

PRIORS = [name for name, recipe in recipes.RECIPES.items() if "classes" in recipe.dials and "draws" in recipe.can]
JOBS = {"whole": "3,4,5", "turned": "9,5", "alone": "4"}
DRAW = """
import inspect, sys, torch
from safetensors.torch import save_file
from sfumato import recipes
torch.set_num_threads(1)
seeds, place = [int(s) for s in sys.argv[1].split(",")], sys.argv[2]
for name in sys.argv[3:]:
    torch.manual_seed(0)
    system = recipes.build(name, size="xs", side=8 if name == "pixel-ar" else 16, classes=3).eval()
    with torch.no_grad():
        for p in system.parameters():
            p.add_(0.02 * torch.randn_like(p))  # zero-initialised exits would hide what the rest computes
    known = inspect.signature(getattr(system, "last", system).prior.sample).parameters
    labels = [seed % 3 for seed in seeds]
    options = {"guidance": 2.0, "batch": 2} | ({"steps": 3} if "steps" in known else {})
    x = system.sample(len(seeds), {"label": labels}, seeds=seeds, **options)
    save_file({"x": x.contiguous()}, f"{place}-{name}")
"""


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """Three processes, each drawing from every recipe: seeds 3, 4, 5; 5 beside 9, which comes first; and 4 alone."""
    folder = tmp_path_factory.mktemp("drawn")
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    commands = [[sys.executable, "-c", DRAW, seeds, str(folder / job), *PRIORS] for job, seeds in JOBS.items()]
    running = [subprocess.Popen(command, env=environment) for command in commands]
    assert [process.wait(timeout=550) for process in running] == [0, 0, 0]
    return folder


@pytest.mark.parametrize("name", PRIORS)
def test_a_picture_depends_on_its_own_seed_alone(name, drawn):
    """Bitwise."""
    from safetensors.torch import load_file

    whole, turned, alone = (load_file(drawn / f"{job}-{name}")["x"] for job in JOBS)
    assert torch.equal(whole[2], turned[1])
    assert torch.equal(whole[1], alone[0])
    assert not torch.equal(whole[0], whole[1])
