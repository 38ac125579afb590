"""maskgit and mar as systems: what an edit holds fixed, and likelihoods that are bounds."""

import math

import pytest
import torch

from sfumato import recipes
from sfumato.core.condition import Condition
from sfumato.core.noise import Noise


def system_of(name, **dials):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        system = recipes.build(name, size="xs", side=16, channels=1, classes=3, **dials)
    with torch.no_grad():
        for p in system.prior.parameters():
            p.add_(0.05 * Noise.each([p.numel()]).normal(*p.shape)[0])  # exits start at zero
    return system.eval()


@pytest.mark.parametrize("options", [{}, {"guidance": 2.0, "ramp": "linear"}, {"order": "halton"}])
@pytest.mark.parametrize("name", ["maskgit", "mar", "vae+masked", "vae+autoregressive", "vq-ar"])
def test_an_edit_keeps_what_is_outside_the_mask(name, options, monkeypatch):
    """Pixels bit for bit; and the prior's latents, which are compared with those of the picture where it was held."""
    if name in ("vae+autoregressive", "vq-ar"):
        options = {key: value for key, value in options.items() if key == "guidance"}
    else:
        options = {"steps": 3, **options}
    system = system_of(name)
    images = Noise.each(range(3)).uniform(1, 16, 16) * 2 - 1
    mask = torch.zeros(3, 1, 16, 16, dtype=torch.bool)
    mask[0, :, :8] = True
    mask[1, :, 5:7, 5:7] = True
    mask[2] = True
    honest, drawn = system.prior.sample, []

    def heard(*at, **told):
        drawn.append((honest(*at, **told), told["known"]))
        return drawn[-1][0]

    monkeypatch.setattr(system.prior, "sample", heard)
    edited = system.edit(images, mask, {"label": [0, 1, 2]}, seeds=[1, 2, 3], batch=3, **options)
    assert torch.equal(edited[~mask], images[~mask])
    ((z, (value, held)),) = drawn
    assert torch.equal(z[held], value[held])
    assert bool(held[:2].flatten(1).any(1).all())
    assert not bool(held[2].any())
    assert bool((edited[mask] != images[mask]).any())


@pytest.mark.parametrize("name", ["maskgit", "mar", "vae+autoregressive"])
def test_bits_are_a_bound_and_finite(name):
    system = system_of(name)
    images = (Noise.each(range(2)).uniform(1, 16, 16) * 255).round() / 127.5 - 1
    bits = system.bits_per_dim(images, {"label": [0, 1]}, seeds=[1, 2])
    assert system.log_prob_kind == "bound"
    assert bool(bits.isfinite().all())
    assert torch.equal(bits, system.bits_per_dim(images, {"label": [0, 1]}, seeds=[1, 2]))


def test_a_fresh_maskgit_is_nearly_uniform_over_the_codes():
    """At the start logits are nearly equal, so a token costs about log K: within 2 % of it."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        system = recipes.build("maskgit", size="xs", side=16, channels=1).eval()
    z = torch.randint(512, (64, 16))
    with torch.no_grad():
        nats = -system.prior.log_prob(z, Condition.none(64), Noise.each(range(64))).mean() / 16
    assert abs(float(nats) / math.log(512) - 1) < 0.02
