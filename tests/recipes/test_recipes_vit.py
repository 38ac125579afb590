"""vit: the published counts, transformers' numbers, what it learns, and what it must not care about."""

import math

import pytest
import torch
from transformers import ViTConfig, ViTForImageClassification

from sfumato import recipes
from sfumato.core.errors import Misfit, UsageError
from sfumato.core.noise import Noise
from sfumato.core.space import Grid
from sfumato.nn import published
from sfumato.nn.rows.encoders import PatchNet, Pooled
from sfumato.systems.abilities import abilities
from sfumato.systems.classifier import Classifier
from sfumato.systems.views import Views, crop, flip

K = 5


def build(**dials):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return recipes.build("vit", **{"size": "xs", "side": 16, "channels": 1, "classes": K, **dials})


def images(n=6, side=16, channels=1):
    return Noise.each(range(n)).uniform(channels, side, side) * 2 - 1


@pytest.mark.parametrize(("trunk", "count"), [("B", 86_567_656), ("L", 304_326_632)])
def test_published_sizes_have_the_published_counts(trunk, count):
    """timm's vit_base_patch16_224 and vit_large_patch16_224, to the last parameter."""
    with torch.device("meta"):
        system = recipes.build("vit", size="paper", trunk=trunk)
    assert sum(p.numel() for p in system.parameters()) == count
    assert (system.data, system.count, system.network.trunk.patch) == (Grid(3, 224, 224), 1000, 16)


@pytest.mark.parametrize("activation", ["gelu", "quick_gelu"])
def test_a_folder_of_transformers_gives_its_numbers(tmp_path, activation):
    """1e-5: float32 sums of up to 192 terms through three blocks; the logits are about 1."""
    torch.manual_seed(0)
    config = ViTConfig(
        hidden_size=48,
        num_hidden_layers=3,
        num_attention_heads=4,
        intermediate_size=96,
        image_size=32,
        patch_size=8,
        num_labels=K,
        hidden_act=activation,
    )
    theirs = ViTForImageClassification(config).eval()
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.copy_(0.2 * torch.randn_like(parameter))
    theirs.save_pretrained(tmp_path)
    ours = published.vit(tmp_path)
    x = images(4, 32, 3)
    with torch.no_grad():
        torch.testing.assert_close(ours(x), theirs(x).logits, atol=1e-5, rtol=1e-5)
        state = theirs.vit(x).last_hidden_state[:, 0]
        torch.testing.assert_close(ours.embed(x), state, atol=1e-5, rtol=1e-5)


def test_before_it_learned_every_class_is_as_likely():
    system = build(augment="none")
    batch = {"image": images(), "label": torch.arange(6) % K}
    assert float(system.loss(batch)["nats"].detach()) == pytest.approx(math.log(K), abs=1e-6)  # one float32 logarithm
    torch.testing.assert_close(system.eval().classify(images()), torch.full((6, K), 1 / K))


def test_it_learns_what_pictures_show():
    """Two classes of noisy pictures, brighter above or below: told apart after 60 steps, on pictures never seen."""
    system = build(classes=2)
    ramp = torch.linspace(-1, 1, 16)[:, None].expand(16, 16)

    def drawn(seed):
        noise = Noise.shared(seed, 32)
        label = noise.integers(2)
        x = 0.3 * noise.normal(1, 16, 16) + torch.where(label.view(-1, 1, 1, 1) == 1, ramp, -ramp)
        return {"image": x.clamp(-1, 1), "label": label}

    optimiser = torch.optim.AdamW(system.parameters(), lr=2e-3)
    system.train()
    for step in range(60):
        loss = system.loss(drawn(step), 0, Noise.shared(1000 + step, 32))["nats"]
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    held = drawn(10_000)
    assert bool((system.eval().classify(held["image"]).argmax(1) == held["label"]).all())


def test_patches_with_their_places_may_stand_in_any_order():
    """Permuting patches together with their positions changes nothing that the class token sees; the patches alone
    do. The test of the paper's words that only positions tell the order."""
    trunk = PatchNet(Grid(1, 8, 8), patch=4, width=16, depth=2, heads=2).eval()
    with torch.no_grad():
        for parameter in trunk.parameters():
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)))
    net, x = Pooled(trunk, K), images(2, 8)
    turned = torch.cat([x[..., 4:, :], x[..., :4, :]], -2)  # both rows of patches change places
    with torch.no_grad():
        before, moved = net.embed(x), net.embed(turned)
        table = trunk.positions.table
        table.copy_(table[[0, 3, 4, 1, 2]])
        after = net.embed(turned)
    torch.testing.assert_close(after, before, atol=1e-5, rtol=1e-5)  # sums in another order
    assert not torch.allclose(moved, before, atol=1e-2)


def test_the_mean_of_the_patches_is_another_way_to_read_them():
    trunk = PatchNet(Grid(1, 8, 8), patch=4, width=16, depth=1, heads=2).eval()
    x = images(2, 8)
    with torch.no_grad():
        torch.testing.assert_close(Pooled(trunk, K, "mean").embed(x), trunk(x)[:, 1:].mean(1))


def test_a_picture_is_classified_the_same_in_any_company():
    system = build().eval()
    with torch.no_grad():
        system.network.head.weight.normal_()
    x = images(5)
    alone = torch.cat([system.classify(x[i : i + 1]) for i in range(5)])
    torch.testing.assert_close(system.classify(x, batch=2), alone, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(system.classify(x).sum(1), torch.ones(5))
    assert system.classify(x[:0]).shape == (0, K)


def test_what_it_can_and_what_it_needs():
    system = build()
    assert abilities(system) == ("classifies", "embeds")
    assert (system.entries, system.learns, system.hears) == (("image",), ("image", "label"), ())
    assert isinstance(system, Classifier)
    with pytest.raises(Misfit, match="16"):
        system.classify(images(2, 8))
    with pytest.raises(UsageError, match="no multiple of 5"):
        build(patch=5)
    with pytest.raises(UsageError, match="built for no classes"):
        build(classes=None).loss({"image": images(), "label": torch.zeros(6, dtype=torch.int64)})


# ---- views ----


def test_a_crop_shows_a_part_of_the_picture_and_nothing_else():
    """On a ramp, bilinear is exact: a crop of width w at left l is l + w u. Area and ratio stay in their ranges."""
    side = 64
    place = (torch.arange(side) + 0.5) / side
    x = torch.stack([place.expand(side, side), place[:, None].expand(side, side)]).expand(200, 2, side, side)
    seen = crop(x, Noise.each(range(200)), least=0.3)
    inner = slice(side // 4, 3 * side // 4)  # away from the border, where a ramp is clamped
    wide = (seen[:, 0, 0, inner][:, -1] - seen[:, 0, 0, inner][:, 0]) / (place[inner][-1] - place[inner][0])
    high = (seen[:, 1, inner, 0][:, -1] - seen[:, 1, inner, 0][:, 0]) / (place[inner][-1] - place[inner][0])
    area, bent = wide * high, wide / high
    assert float(area.min()) > 0.3 * 0.99
    assert float(area.max()) <= 1 + 1e-5
    cut = (wide > 1 - 1e-4) | (high > 1 - 1e-4)  # a rectangle wider than the picture was cut to it
    assert bool(((bent[~cut] < 4 / 3 + 1e-3) & (bent[~cut] > 3 / 4 - 1e-3)).all())
    assert float(seen.min()) >= float(x.min()) - 1e-6
    # uniform area: the middle of [0.3, 1] is 0.65; 200 draws of deviation 0.2 have a mean within 4 · 0.2 / √200
    assert abs(float(area[~cut].mean()) - 0.65) < 4 * 0.2 / int((~cut).sum()) ** 0.5 + 0.05


def test_a_view_is_a_function_of_its_row_alone():
    x, view = images(6), Views(least=0.4, flip=True)
    alone = torch.cat([view(x[i : i + 1], Noise.each([i])) for i in range(6)])
    torch.testing.assert_close(view(x, Noise.each(range(6))), alone, atol=1e-6, rtol=0)


def test_half_of_the_pictures_are_flipped():
    x = images(1).expand(400, 1, 16, 16)
    turned = (flip(x, Noise.each(range(400))) == x.flip(-1)).flatten(1).all(1)
    assert abs(float(turned.float().mean()) - 0.5) < 4 * 0.5 / 20  # four standard errors
    assert torch.equal(Views()(x, Noise.each(range(400))), x)
