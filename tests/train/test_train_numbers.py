"""The schedule, the average, the optimiser's groups and the tiles, against closed forms."""

from __future__ import annotations

import io
import itertools
import math

import pytest
import torch
from PIL import Image
from tiny import PLAN, Two
from torch import nn

from sfumato.recipes.plan import Plan
from sfumato.train.average import Average
from sfumato.train.grid import GAP, png, tile
from sfumato.train.optim import adamw, load_moments, moments, rate, set_rate


def test_the_rate_follows_its_formula():
    plan = Plan(rate=2.0, warmup=0.2, floor=0.1)
    assert rate(plan, 0.0) == 0.0
    assert rate(plan, 0.1) == pytest.approx(1.0)
    assert rate(plan, 0.2) == pytest.approx(2.0)
    assert rate(plan, 0.6) == pytest.approx(2.0 * (0.1 + 0.9 / 2))  # the cosine's middle
    assert rate(plan, 1.0) == pytest.approx(0.2)
    grid = [rate(plan, p / 100) for p in range(20, 101)]
    assert all(a > b for a, b in itertools.pairwise(grid))


@pytest.mark.parametrize("warmup", [0.0, 1.0])
def test_the_rate_bears_the_extremes(warmup):
    plan = Plan(rate=2.0, warmup=warmup, floor=0.1)
    values = [rate(plan, p / 10) for p in range(11)]
    assert all(math.isfinite(v) and 0 <= v <= 2 for v in values)
    assert values[-1] == pytest.approx(0.2)


def test_the_average_is_its_closed_form():
    """w̄ₙ = Σ wᵢ (1 − dᵢ) Π_{j>i} dⱼ + w₀ Π dⱼ with dₙ = min(ema, (1 + n)/(10 + n)); float64, so 1e-12 is rounding."""
    weight = nn.Parameter(torch.randn(5, 3, dtype=torch.float64))
    average = Average([weight], 0.7)
    expected = weight.detach().clone()
    for n in range(30):
        with torch.no_grad():
            weight.normal_()
        average.update()
        decay = min(0.7, (1 + n) / (10 + n))
        expected = decay * expected + (1 - decay) * weight.detach()
    assert average.decay == 0.7
    torch.testing.assert_close(average.values[0], expected, rtol=0, atol=1e-12)


def test_swapping_shows_the_average_and_gives_back_every_bit():
    net = Two()
    average = Average(list(net.parameters()), 0.9)
    with torch.no_grad():
        for p in net.parameters():
            p.add_(1)
    live = [p.detach().clone() for p in net.parameters()]
    shadow = [v.clone() for v in average.values]
    try:
        with average.swapped():
            assert all(torch.equal(p, s) for p, s in zip(net.parameters(), shadow))
            raise KeyboardInterrupt
    except KeyboardInterrupt:
        pass
    assert all(torch.equal(p, w) for p, w in zip(net.parameters(), live))
    assert all(torch.equal(v, s) for v, s in zip(average.values, shadow))


def test_only_matrices_decay():
    """With gradient zero AdamW leaves vectors alone and shrinks matrices by rate · decay."""
    layer = nn.Linear(3, 3)
    optimizer = adamw(list(layer.parameters()), Plan(decay=0.5))
    set_rate(optimizer, 0.1)
    before = layer.weight.detach().clone(), layer.bias.detach().clone()
    for p in layer.parameters():
        p.grad = torch.zeros_like(p)
    optimizer.step()
    torch.testing.assert_close(layer.weight.detach(), before[0] * (1 - 0.1 * 0.5))
    assert torch.equal(layer.bias.detach(), before[1])


def test_moments_go_out_and_in_exactly_and_forget_what_was_never_stepped():
    net = nn.ModuleList([nn.Linear(2, 2), nn.Linear(2, 2)])
    names = {p: n for n, p in net.named_parameters()}
    a, b = adamw(list(net.parameters()), PLAN), adamw(list(net.parameters()), PLAN)
    for p in net.parameters():
        p.grad = torch.randn_like(p)
    b.step()
    net[1].zero_grad(set_to_none=True)
    a.step()
    saved = {n: t.clone() for n, t in moments(a, names).items()}
    assert len(saved) == 6
    load_moments(b, names, saved)
    again = moments(b, names)
    assert again.keys() == saved.keys()
    assert all(torch.equal(again[n], saved[n]) for n in saved)


def test_a_grid_holds_every_picture_where_it_belongs():
    images = torch.linspace(-1, 1, 5).reshape(5, 1, 1, 1).expand(5, 1, 3, 4)
    sheet = tile(images)
    assert sheet.shape == (3, 2 * 3 + GAP, 3 * 4 + 2 * GAP)
    for i, level in enumerate([0, 64, 128, 191, 255]):  # round(127.5 (x + 1)); 127.5 rounds to even
        top, left = i // 3 * (3 + GAP), i % 3 * (4 + GAP)
        assert (sheet[:, top : top + 3, left : left + 4] == level).all(), i
    image = Image.open(io.BytesIO(png(sheet, {"run": "r", "step": 3, "prompt": "红"})))
    assert image.size == (16, 8)
    assert image.text == {"run": "r", "step": "3", "prompt": "红"}
