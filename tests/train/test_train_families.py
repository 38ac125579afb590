"""A5 for every family: a real recipe, stopped by death and resumed, ends with the bits of the undisturbed run."""

from __future__ import annotations

import pytest
import torch

from sfumato.checkpoint import latest, load_model, load_state
from sfumato.checkpoint.tensors import hash_tensors
from sfumato.recipes import RECIPES
from sfumato.train import stage
from sfumato.train.run import resume, train

# two players and codes that settle; two stages, latents on disk, a condition; singular vectors that turn in the loss; a
# start that is measured; no latent and no prior; texts, whose alphabet is learned first
FAST = {"vqgan", "ldm", "deep-vae", "glow", "vit", "words+autoregressive"}
TRAINED = sorted(
    {*RECIPES, "words+autoregressive"} - {"diffusers"}
)  # which is a published file in our terms, and has no size


DATA = {"vit": "digits", "words+autoregressive": "emoji:food+captions"}


class Death(BaseException):
    pass


def result(run) -> tuple[str, str]:
    return hash_tensors(load_model(run).state_dict()), hash_tensors(load_state(latest(run))[0])


@pytest.mark.parametrize(
    "recipe", [name if name in FAST else pytest.param(name, marks=pytest.mark.slow) for name in TRAINED]
)
def test_a5_every_family_resumes_bitwise(tmp_path, monkeypatch, recipe):
    """8 steps a stage; death after steps 3 and 7 of each stage, when steps 2 and 6 were saved."""
    torch.set_num_threads(1)
    how = {"size": "xs", "steps": 8, "batch": 4, "sample_every": 0, "save_every": 2, "quiet": True}
    train(recipe, DATA.get(recipe, "scenes:n=64"), out=tmp_path / "straight", **how)
    died: list[tuple[str, int]] = []

    def heed(self, step, honest=stage.Stage._heed):
        honest(self, step)
        if step.step in (3, 7) and (self.name, step.step) not in died:
            died.append((self.name, step.step))
            raise Death

    monkeypatch.setattr(stage.Stage, "_heed", heed)
    with pytest.raises(Death):
        train(recipe, DATA.get(recipe, "scenes:n=64"), out=tmp_path / "run", **how)
    for _ in range(20):
        try:
            resume(tmp_path / "run", quiet=True)
            break
        except Death:
            continue
    assert len(died) == 2 * len(load_model(tmp_path / "run").stages())
    assert result(tmp_path / "run") == result(tmp_path / "straight")
