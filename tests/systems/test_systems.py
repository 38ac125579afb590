"""Systems and cascades, with a codec, a prior and conditioners whose every number is known."""

import math

import pytest
import torch

from sfumato.conditioners import Labels, Picture, Several
from sfumato.core.condition import Condition
from sfumato.core.contracts import Codec, Prior
from sfumato.core.errors import Misfit, UsageError
from sfumato.core.noise import Noise
from sfumato.core.space import Grid, Sequence, Tokens
from sfumato.core.tensors import per_image
from sfumato.systems import Cascade, System
from sfumato.systems.between import slerp

SPACE = Grid(2, 4, 4)


class Half(Codec):
    """z = x / 2: exact, log |det| = −D log 2."""

    exact, kind = True, "exact"

    def __init__(self, space=SPACE):
        super().__init__()
        self.space = self.data = space

    def encode(self, x):
        return x / 2

    def decode(self, z):
        return 2 * z

    def lift(self, x, noise=None):
        return x / 2, torch.full((len(x),), -math.log(2) * x[0].numel())

    def blend(self, a, b, weight):
        return torch.lerp(a, b, weight)


class Shifted(Prior):
    """z = s + 0.1 ε with a learned s, moved by the mean of the condition's doors; guidance moves the shift linearly."""

    spaces, kind = (Grid,), "exact"

    def __init__(self, space=SPACE):
        super().__init__()
        self.space = space
        self.shift = torch.nn.Parameter(torch.zeros(()))

    def mean(self, condition):
        moved = self.shift.expand(condition.rows)
        for door in (condition.vector, condition.grid):
            moved = moved if door is None else moved + door.flatten(1).mean(1)
        return moved.reshape(-1, 1, 1, 1)

    def loss(self, z, condition, noise, progress=1.0, player=0):
        return {"square": (z - self.mean(condition)).square().mean()}

    def sample(self, condition, noise, *, null=None, guidance=1.0, known=None, width=0.1):
        mean = self.mean(condition)
        if null is not None:
            mean = self.mean(null) + guidance * (mean - self.mean(null))
        z = mean + width * noise.normal(*self.space.shape)
        return z if known is None else torch.where(known[1], known[0], z)

    def log_prob(self, z, condition, noise):
        return per_image(torch.distributions.Normal(self.mean(condition), 0.1).log_prob(z))


def test_log_prob_is_the_prior_plus_the_codecs_weight():
    x = Noise.each(range(3)).normal(*SPACE.shape)
    expected = torch.distributions.Normal(0, 0.2).log_prob(x).flatten(1).sum(1)  # x = 2 z, z ~ N(0, 0.1²)
    system = System(Half(), Shifted())
    torch.testing.assert_close(system.log_prob(x), expected, rtol=1e-5, atol=1e-4)  # float32 sums of 32 terms near 10
    assert system.log_prob_kind == "exact"


def test_bits_per_dim_of_a_density_is_that_of_its_dequantised_bins():
    """x ~ N(0, 0.2²) is wide beside the bin 1/127.5, so a bin's mass is p(x)/127.5 up to (bin/σ)²/24 ≈ 6e-5."""
    levels = torch.tensor([100.0, 127.0, 140.0]).repeat_interleave(32).reshape(3, *SPACE.shape)
    x = levels / 127.5 - 1
    normal = torch.distributions.Normal(0, 0.2)
    exact = -torch.log2(normal.cdf(x + 0.5 / 127.5) - normal.cdf(x - 0.5 / 127.5)).flatten(1).mean(1)
    bits = torch.stack([System(Half(), Shifted()).bits_per_dim(x, seeds=range(3 * k, 3 * k + 3)) for k in range(200)])
    # 200 dequantisations average 6,400 values; their spread is |dlogp/dx| bin/√12 ≤ 0.036 bits, so 4 errors are 0.0018
    torch.testing.assert_close(bits.mean(0), exact, rtol=0, atol=2e-3)


def test_an_image_depends_on_its_own_seed_alone():
    """E10, bitwise: alone, in another place, in a longer list."""
    system = System(Half(), Shifted())
    many = system.sample(11, seeds=range(11), batch=4)
    alone = system.sample(1, seeds=[7], batch=4)
    turned = system.sample(3, seeds=[9, 7, 1], batch=4)
    assert torch.equal(many[7], alone[0])
    assert torch.equal(many[[9, 7, 1]], turned)


def test_guidance_reaches_the_prior_with_a_null_condition():
    system = System(Half(), Shifted(), Labels(3, 4))
    with torch.no_grad():
        system.conditioner.table.weight.copy_(torch.tensor([0.0, 0.1, 0.2, -0.1])[:, None].expand(4, 4))
    unguided = system.sample(2, {"label": [1, 2]}, width=0.0)[:, 0, 0, 0]
    torch.testing.assert_close(unguided, torch.tensor([0.2, 0.4]))
    guided = system.sample(2, {"label": [1, 2]}, guidance=2.0, width=0.0)[:, 0, 0, 0]
    torch.testing.assert_close(guided, torch.tensor([0.6, 1.0]))  # 2 (u + 2 (c − u)), u = −0.1
    nothing = system.sample(2, width=0.0)[:, 0, 0, 0]
    torch.testing.assert_close(nothing, torch.tensor([-0.2, -0.2]))


def test_edit_keeps_every_pixel_outside_the_mask():
    system = System(Half(), Shifted())
    x = Noise.each([5]).normal(*SPACE.shape).clamp(-1, 1)
    mask = torch.zeros(1, 1, 4, 4, dtype=torch.bool)
    mask[..., :2] = True
    y = system.edit(x, mask)
    assert torch.equal(y[..., 2:], x[..., 2:])
    assert not torch.isclose(y[..., :2], x[..., :2]).any()


def test_interpolation_meets_both_ends():
    a, b = Noise.each([1, 2]).uniform(*SPACE.shape)
    frames = System(Half(), Shifted()).interpolate(a, b, frames=5)
    torch.testing.assert_close(frames[0], a)
    torch.testing.assert_close(frames[-1], b)
    torch.testing.assert_close(frames[2], (a + b) / 2)


def test_slerp_keeps_the_norm_and_survives_parallel_ends():
    a, b = torch.eye(2)
    torch.testing.assert_close(slerp(a, b, 0.5), torch.full((2,), math.sqrt(0.5)))
    torch.testing.assert_close(slerp(a, 2 * a, 0.25), 1.25 * a)
    assert torch.isfinite(slerp(a, -a, 0.5)).all()


def test_the_prior_stage_trains_the_prior_and_leaves_the_codec():
    system = System(Half(), Shifted(), Labels(3, 4))
    assert list(system.stages()) == ["prior"]
    (players,) = system.players()
    assert {id(p) for p in players} == {id(system.prior.shift), id(system.conditioner.table.weight)}
    batch = {"image": torch.ones(2, *SPACE.shape), "label": torch.tensor([0, 1])}
    assert system.loss(batch, noise=Noise.each([1, 2]))["square"].requires_grad
    latent = {"latent": torch.ones(2, *SPACE.shape) / 2, "label": torch.tensor([0, 1])}
    assert torch.equal(
        system.loss(batch, noise=Noise.each([1, 2]))["square"], system.loss(latent, noise=Noise.each([1, 2]))["square"]
    )


class TestRefusals:
    """Rule 7: what, why, and what now."""

    def test_a_prior_for_another_kind_of_latent(self):
        codec = Half()
        codec.space = Tokens(16, 8)
        with pytest.raises(Misfit, match=r"Shifted models Grid, but Half yields Tokens.*Choose a prior"):
            System(codec, Shifted())

    def test_a_prior_of_another_size(self):
        with pytest.raises(Misfit, match="Build the prior with space=codec.space"):
            System(Half(), Shifted(Grid(2, 8, 8)))

    def test_a_condition_without_a_prior(self):
        with pytest.raises(Misfit, match="nobody to listen"):
            System(Half(), None, Labels(2, 2))

    def test_sampling_a_codec_alone(self):
        with pytest.raises(Misfit, match="no prior.*--from codec=RUN"):
            System(Half()).sample(1)

    def test_an_unknown_option_is_answered_with_the_nearest(self):
        with pytest.raises(UsageError, match="'widht'.*Did you mean 'width'"):
            System(Half(), Shifted()).sample(1, widht=1.0)

    def test_an_unknown_condition(self):
        with pytest.raises(UsageError, match="Did you mean 'label'"):
            System(Half(), Shifted(), Labels(2, 2)).sample(1, {"lable": 0})

    def test_a_label_that_no_class_has(self):
        with pytest.raises(UsageError, match="Label 7"):
            System(Half(), Shifted(), Labels(2, 2)).sample(1, {"label": 7})

    def test_guidance_without_a_condition(self):
        with pytest.raises(UsageError, match="Guidance needs a condition"):
            System(Half(), Shifted()).sample(1, guidance=2.0)

    def test_seeds_that_do_not_match(self):
        with pytest.raises(UsageError, match="3 images need 3 seeds"):
            System(Half(), Shifted()).sample(3, seeds=[1])


def test_dropping_happens_with_the_stated_probability_and_only_with_noise():
    labels = Labels(4, 2, drop=0.25)
    y = torch.zeros(4000, dtype=torch.long)
    dropped = (labels({"label": y}, Noise.shared(3, 4000)).vector == labels.null(1).vector).all(1).float().mean()
    assert abs(dropped - 0.25) < 4 * math.sqrt(0.25 * 0.75 / 4000)  # four standard errors
    assert torch.equal(labels({"label": y}).vector, labels.table.weight[0].expand(4000, 2))


def test_several_conditions_stand_side_by_side_and_are_dropped_together():
    several = Several(Labels(2, 3), Labels(2, 5), drop=0.5)
    given = {"label": torch.tensor([1] * 200)}
    condition, null = several(given, Noise.shared(0, 200)), several.null(200)
    assert condition.vector.shape == (200, 8)
    first = (condition.vector[:, :3] == null.vector[:, :3]).all(1)
    second = (condition.vector[:, 3:] == null.vector[:, 3:]).all(1)
    assert torch.equal(first, second)
    assert 0 < first.sum() < 200


def test_a_low_resolution_is_brought_to_the_latents_layout():
    picture = Picture(2, (4, 4), "low", factor=2)
    image = torch.arange(2 * 2 * 16.0).reshape(2, 2, 4, 4)
    grid = picture({"image": image}).grid
    small = torch.nn.functional.avg_pool2d(image, 2)
    expected = torch.nn.functional.interpolate(small, (4, 4), mode="bilinear", align_corners=False)
    assert torch.equal(grid, expected)
    assert torch.equal(picture({"picture": small}).grid, expected)


def test_a_hole_is_a_rectangle_and_hides_the_pixels_under_it():
    picture = Picture(2, (8, 8), "hole")
    grid = picture({"image": torch.ones(50, 2, 8, 8)}, Noise.shared(1, 50)).grid
    mask = grid[:, -1]
    assert torch.equal(grid[:, 0], 1 - mask)
    for m in mask:  # a rectangle is the product of its two shadows
        assert torch.equal(m, m.amax(0)[None, :] * m.amax(1)[:, None])


def test_a_cascade_hands_each_picture_to_the_next():
    small, large = Grid(2, 2, 2), Grid(2, 4, 4)
    first = System(Half(small), Shifted(small))
    second = System(Half(large), Shifted(large), Picture(2, (4, 4), "low"))
    with torch.no_grad():
        first.prior.shift.fill_(0.3)
    cascade = Cascade(small=first, large=second)
    assert list(cascade.stages()) == ["small.prior", "large.prior"]
    x = cascade.sample(2, seeds=[3, 4], width=0.0)
    torch.testing.assert_close(x, torch.full((2, 2, 4, 4), 1.0).clamp(max=1))  # 2 · (2 · 0.3) = 1.2, clamped
    batch = {"image": torch.ones(3, 2, 4, 4) * 0.5}
    terms = cascade.stages()["small.prior"].loss(batch, noise=Noise.each(range(3)))
    torch.testing.assert_close(terms["square"], torch.tensor((0.25 - 0.3) ** 2))
    with pytest.raises(Misfit, match="conditioned on a picture"):
        Cascade(small=first, large=System(Half(large), Shifted(large)))


def test_a_condition_refuses_rows_that_do_not_match():
    with pytest.raises(Misfit, match="2 rows, but its vector has 3"):
        Condition(2, vector=torch.zeros(3, 1))
    with pytest.raises(ValueError, match="holds 6 positions"):
        Sequence(5, 2, layout=(2, 3))
