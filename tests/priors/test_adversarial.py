"""The game of two: its value, its gradients, its penalties, what each player sees, and what is drawn."""

import math

import pytest
import torch
from torch import nn

from sfumato.core.condition import Condition
from sfumato.core.errors import Misfit, UnknownName, UsageError
from sfumato.core.noise import Noise
from sfumato.core.space import Grid, Sequence
from sfumato.nn.players.discriminator import Discriminator
from sfumato.nn.players.generator import Generator
from sfumato.priors.adversarial import Adversarial, Gallery, between, truncated
from sfumato.priors.augment import AUGMENTATIONS, augmented

SPACE = Grid(2, 1, 1)
NONE = Condition.none


@pytest.fixture(autouse=True)
def seeded():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


class Plane(nn.Module):
    """w → z by one matrix, and a vector condition added; or, as a critic, z → logit."""

    def __init__(self, inputs=3, outputs=2, critic=False, vector=None):
        super().__init__()
        self.noise, self.critic = inputs, critic
        self.map = nn.Linear(inputs, outputs)
        self.told = None if vector is None else nn.Linear(vector, outputs, bias=False)

    def forward(self, x, condition):
        y = self.map(x.flatten(1))
        y = y if self.told is None else y + self.told(condition.vector)
        return y[:, 0] if self.critic else y[:, :, None, None]


def plane(**options):
    return Adversarial(SPACE, Plane(), Plane(2, 1, critic=True), **options)


# ── the value of the game ────────────────────────────────────────────────────────────────────────────────────────────


class Drawer(nn.Module):
    """Not random: row i is the i-th of a fixed list, so that a batch holds the distribution exactly."""

    noise = 1

    def __init__(self, rows):
        super().__init__()
        self.rows = rows
        self.idle = nn.Parameter(torch.zeros(()))

    def forward(self, w, condition):
        return self.rows + 0 * self.idle


class Table(nn.Module):
    """A critic of infinite capacity on a finite support: one logit a point."""

    def __init__(self, points):
        super().__init__()
        self.logits = nn.Parameter(torch.zeros(points, dtype=torch.float64))

    def forward(self, z, condition):
        return self.logits[z.flatten().round().long()]


def support(counts):
    index = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    return index.double().reshape(-1, 1, 1, 1)


P, Q = [40, 30, 20, 6, 4], [10, 15, 20, 25, 30]  # in hundredths


@pytest.mark.parametrize("q", [P, Q], ids=["equal", "apart"])
def test_the_best_critic_is_the_density_ratio_and_the_value_is_that_of_the_theory(q):
    """D* = log p − log q and V = 2 JS(p, q) − log 4, which is −log 4 for p = q; both within 1e-2."""
    prior = Adversarial(Grid(1, 1, 1), Drawer(support(q)), Table(5), loss="non-saturating")
    optimiser = torch.optim.LBFGS(prior.players()[1], max_iter=200, line_search_fn="strong_wolfe")
    real = support(P)

    def closure():
        optimiser.zero_grad()
        loss = prior.loss(real, NONE(100), Noise.ambient(100), player=1)["critic"]
        loss.backward()
        return loss

    optimiser.step(closure)
    p, q = (torch.tensor(x, dtype=torch.float64) / 100 for x in (P, q))
    torch.testing.assert_close(prior.critic.logits.detach(), (p / q).log(), atol=1e-2, rtol=0)
    m = (p + q) / 2
    js = (p * (p / m).log() + q * (q / m).log()).sum() / 2
    value = -prior.loss(real, NONE(100), Noise.ambient(100), player=1)["critic"].item()
    assert value == pytest.approx(2 * js.item() - math.log(4), abs=1e-2)


def test_a_saturating_generator_stands_still_where_the_critic_wins():
    """Clusters far apart and a critic trained on them: the minimax gradient is over ten times smaller."""
    size = {}
    for loss in ("saturating", "non-saturating"):
        torch.manual_seed(1)
        prior = plane(loss=loss)
        real = torch.randn(256, 2, 1, 1) * 0.1 + 4
        optimiser = torch.optim.Adam(prior.players()[1], lr=0.1)
        for step in range(100):
            optimiser.zero_grad()
            prior.loss(real, NONE(256), Noise.shared(step, 256), player=1)["critic"].backward()
            optimiser.step()
        term = prior.loss(real, NONE(256), Noise.shared(999, 256))["generator"]
        grads = torch.autograd.grad(term, prior.players()[0])
        size[loss] = torch.cat([g.flatten() for g in grads]).norm().item()
    assert size["non-saturating"] > 10 * size["saturating"]


def test_the_players_share_no_parameter_and_between_them_have_all():
    prior = plane()
    ours, theirs = ({id(p) for p in player} for player in prior.players())
    assert not ours & theirs
    assert ours | theirs == {id(p) for p in prior.parameters()}


@pytest.mark.parametrize("loss", ["relativistic", "hinge", "non-saturating", "saturating", "wasserstein"])
def test_a_step_of_each_player_does_what_it_says(loss):
    """On the same draw: the critic's step lowers its loss, then the generator's lowers its own."""
    prior = plane(loss=loss)
    real = torch.randn(64, 2, 1, 1) + 1
    for player, name in ((1, "critic"), (0, "generator")):
        optimiser = torch.optim.SGD(prior.players()[player], lr=0.05)
        before = prior.loss(real, NONE(64), Noise.shared(3, 64), player=player)[name]
        before.backward()
        optimiser.step()
        after = prior.loss(real, NONE(64), Noise.shared(3, 64), player=player)[name]
        assert after < before


# ── penalties ────────────────────────────────────────────────────────────────────────────────────────────────────────


class Bent(nn.Module):
    """D(z) = a z where z > 0 and b z below."""

    def __init__(self, a, b):
        super().__init__()
        self.a, self.b = (nn.Parameter(torch.tensor(x)) for x in (a, b))

    def forward(self, z, condition):
        return torch.where(z > 0, self.a * z, self.b * z).flatten(1).sum(1)


def test_r1_looks_at_real_ones_only_and_r2_at_made_ones_only():
    """Real latents where the slope is 3, made ones where it is 5: ½ · 0.5 · 2 · 3² and ½ · 0.5 · 2 · 5²."""
    real, made = torch.ones(8, 2, 1, 1), -torch.ones(8, 2, 1, 1)
    prior = Adversarial(SPACE, Drawer(made), Bent(3.0, 5.0), loss="wasserstein", r1=0.5, r2=0.5)
    terms = prior.loss(real, NONE(8), Noise.ambient(8), player=1)
    assert terms["r1"].item() == pytest.approx(0.5 * 2 * 9 / 2)
    assert terms["r2"].item() == pytest.approx(0.5 * 2 * 25 / 2)
    slope = torch.autograd.grad(terms["r1"], [prior.critic.a, prior.critic.b], retain_graph=True, allow_unused=True)
    assert slope[0].item() == pytest.approx(0.5 * 2 * 3)  # ∂/∂a ½ · 0.5 · 2 a²: the penalty is learned from
    assert slope[1] is None or slope[1].item() == 0
    assert set(plane(r1=1.0).loss(real, NONE(8), Noise.ambient(8), player=1)) == {"critic", "r1"}
    assert set(plane(r1=1.0, r2=1.0).loss(real, NONE(8), Noise.ambient(8), player=0)) == {"generator"}


def test_the_one_centred_penalty_is_taken_between_real_and_made():
    """A linear critic of slope a has (‖a‖ − 1)² wherever one looks; the points lie on the segments."""
    seen = []

    class Linear(Bent):
        def forward(self, z, condition):
            seen.append(z.detach())
            return self.a * z.flatten(1).sum(1)

    real, made = torch.ones(8, 2, 1, 1), -torch.ones(8, 2, 1, 1)
    prior = Adversarial(SPACE, Drawer(made), Linear(3.0, 0.0), loss="wasserstein", one_centred=10.0)
    terms = prior.loss(real, NONE(8), Noise.shared(0, 8), player=1)
    assert terms["one_centred"].item() == pytest.approx(10 * (3 * math.sqrt(2) - 1) ** 2)
    points = seen[2]
    assert (points.abs() < 1).all()
    assert torch.equal(points[:, 0], points[:, 1])  # one share a row
    assert points.flatten(1)[:, 0].unique().numel() == 8


def test_a_lazy_penalty_comes_every_kth_accepted_step_k_times_as_strong():
    real = torch.randn(8, 2, 1, 1)
    prior, eager = plane(r1=0.3, every=3), plane(r1=0.3)
    eager.load_state_dict(prior.state_dict())
    ask = lambda p: p.loss(real, NONE(8), Noise.shared(5, 8), player=1)
    came = []
    for _ in range(7):
        terms = ask(prior)
        came.append("r1" in terms)
        if came[-1]:
            torch.testing.assert_close(terms["r1"], 3 * ask(eager)["r1"])
        prior.settle()
    assert came == [True, False, False, True, False, False, True]
    other = plane(r1=0.3, every=3)
    other.load_state_dict(prior.state_dict())  # a resumed run is at the same place
    assert ("r1" in ask(other)) == ("r1" in ask(prior))
    prior.forget()  # a skipped step is no step
    assert ("r1" in ask(other)) == ("r1" in ask(prior))
    with torch.no_grad():
        assert set(ask(eager)) == {"critic"}  # a validation loss


def test_penalties_are_taken_in_float32_under_autocast():
    prior = Adversarial(
        Grid(1, 4, 4),
        Generator(Grid(1, 4, 4), widths=(16,)),
        Discriminator(Grid(1, 4, 4), widths=(16,)),
        r1=1.0,
        r2=1.0,
    )
    z = torch.randn(4, 1, 4, 4)
    plain = prior.loss(z, NONE(4), Noise.shared(0, 4), player=1)
    with torch.autocast("cpu", torch.bfloat16):
        half = prior.loss(z, NONE(4), Noise.shared(0, 4), player=1)
    torch.testing.assert_close(half["r1"], plain["r1"])
    assert half["r2"].dtype == torch.float32
    half["r2"].backward()  # and differentiated again


# ── conditions ───────────────────────────────────────────────────────────────────────────────────────────────────────


def conditioned():
    space = Grid(1, 8, 8)
    prior = Adversarial(
        space,
        Generator(space, noise=8, widths=(16,), blocks=1, vector=8),
        Discriminator(space, widths=(16,), blocks=1, vector=8),
        r1=1.0,
    )
    for p in prior.parameters():
        p.data += 0.1 * torch.randn_like(p)
    return prior


def test_the_label_enters_both_networks():
    """Permuting the conditions of a batch changes the critic's logits and the generator's pictures."""
    prior, z, w = conditioned(), torch.randn(4, 1, 8, 8), torch.randn(4, 8)
    told = Condition(4, vector=torch.randn(4, 8))
    other = Condition(4, vector=told.vector.flip(0))
    assert ((prior.critic(z, told) - prior.critic(z, other)).abs() > 1e-4).all()
    apart = (prior.generator(w, told) - prior.generator(w, other)).flatten(1).norm(dim=1)
    assert (apart > 1e-3).all()


@pytest.mark.parametrize("player", [0, 1])
def test_a_conditioner_learns_through_the_generator_alone(player):
    """With a generator that is deaf, no gradient reaches the condition: the critic's is cut."""
    prior, z = conditioned(), torch.randn(4, 1, 8, 8)
    vector = torch.randn(4, 8, requires_grad=True)
    heard = prior.loss(z, Condition(4, vector=vector), Noise.shared(0, 4), player=player)
    (slope,) = torch.autograd.grad(sum(heard.values()), vector, allow_unused=True, retain_graph=True)
    assert (slope is not None and slope.abs().sum() > 0) == (player == 0)
    prior.generator.embed.weight.data.zero_()
    deaf = prior.loss(z, Condition(4, vector=vector), Noise.shared(0, 4), player=0)
    (slope,) = torch.autograd.grad(sum(deaf.values()), vector, allow_unused=True)
    assert slope is None or slope.abs().max() == 0


def test_guidance_is_a_line_between_conditions():
    prior = conditioned()
    told, null = (Condition(2, vector=torch.randn(2, 8)) for _ in range(2))
    draw = lambda condition, **options: prior.sample(condition, Noise.each([1, 2]), **options)
    assert torch.equal(draw(told, null=null, guidance=1.0), draw(told))
    assert torch.equal(draw(told, null=null, guidance=0.0), draw(null))
    middle = Condition(2, vector=(told.vector + null.vector) / 2)
    torch.testing.assert_close(draw(told, null=null, guidance=0.5), draw(middle))
    torch.testing.assert_close(between(told, null, 3.0).vector, null.vector + 3 * (told.vector - null.vector))
    with pytest.raises(UsageError, match="null"):
        draw(told, guidance=2.0)
    with pytest.raises(UsageError, match="vector"):
        between(NONE(2), NONE(2), 2.0)


# ── augmentation ─────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_augmentation_is_differentiable_twice(name):
    """E8, in float64; the draw is the same at each call."""
    x = torch.randn(2, 3, 8, 8, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: augmented(x, [name], Noise.shared(1, 2)), x)
    assert torch.autograd.gradgradcheck(lambda x: augmented(x, [name], Noise.shared(1, 2)).square(), x)


def test_a_translation_is_one():
    """A single lit pixel lands at most an eighth of a side away, at every distance, or falls out at the edge."""
    x = torch.zeros(4000, 1, 32, 16)
    x[:, :, 10, 8] = 1
    moved = augmented(x, ["translation"], Noise.shared(0, 4000))
    assert torch.equal(moved.sum((1, 2, 3)), torch.ones(4000))
    rows, columns = moved.sum(3).argmax(2).flatten() - 10, moved.sum(2).argmax(2).flatten() - 8
    assert rows.unique().tolist() == list(range(-4, 5))
    assert columns.unique().tolist() == list(range(-2, 3))
    edge = torch.zeros(200, 1, 8, 8)
    edge[:, :, 0, 0] = 1
    assert (augmented(edge, ["translation"], Noise.shared(0, 200)).sum((1, 2, 3)) == 0).any()
    tiny = torch.randn(5, 3, 2, 2)
    assert torch.equal(augmented(tiny, ["translation"], Noise.shared(0, 5)), tiny)


def test_a_cutout_is_a_rectangle_of_half_the_sides():
    """Wholly inside it covers a quarter of the picture; its mean part is (∫ covered length)², here (7/16)² ± 0.02: a
    window of half a side whose centre is uniform on the side covers 1/2 − 1/16 of it on average."""
    cut = augmented(torch.ones(4000, 2, 16, 16), ["cutout"], Noise.shared(0, 4000)) == 0
    assert torch.equal(cut[:, 0], cut[:, 1])
    part = cut[:, 0].float().mean((1, 2))
    assert part.max() == pytest.approx(0.25)
    assert part.mean() == pytest.approx((7 / 16) ** 2, abs=0.02)


def test_colour_moves_as_stated():
    """Uniform grey moves by the brightness alone, mean 0 and standard deviation 1/√12, and contrast leaves its mean."""
    grey = torch.zeros(4000, 3, 4, 4)
    found = augmented(grey, ["colour"], Noise.shared(0, 4000))
    torch.testing.assert_close(found, found[:, :1, :1, :1].expand_as(found))
    assert found[:, 0, 0, 0].mean() == pytest.approx(0, abs=0.02)
    assert found[:, 0, 0, 0].std() == pytest.approx(12**-0.5, abs=0.01)
    x = torch.randn(50, 3, 4, 4)
    found = augmented(x, ["colour"], Noise.shared(0, 50))
    offset = (found - x).mean((1, 2, 3))
    assert (offset.abs() <= 0.5).all()


@pytest.mark.parametrize("player", [0, 1])
def test_both_players_see_augmented_pictures_only_and_the_generator_learns_through_it(monkeypatch, player):
    """The critic marks what it saw: every latent it ever gets, real or made, has been through the augmentation."""
    seen = []

    class Watching(Plane):
        def forward(self, x, condition):
            seen.append(x)
            return super().forward(x, condition)

    monkeypatch.setitem(AUGMENTATIONS._things, "mark", lambda x, noise: 2 * x + 100)
    prior = Adversarial(SPACE, Plane(), Watching(2, 1, critic=True), augment=["mark"], r1=1.0, r2=1.0, one_centred=1.0)
    terms = prior.loss(torch.randn(8, 2, 1, 1), NONE(8), Noise.shared(0, 8), player=player)
    assert len(seen) == (2 if player == 0 else 3)
    assert all((x > 50).all() for x in seen)
    if player == 0:
        plain = Adversarial(SPACE, prior.generator, prior.critic, loss="wasserstein")
        marked = Adversarial(SPACE, prior.generator, prior.critic, loss="wasserstein", augment=["mark"])
        slopes = [
            torch.autograd.grad(
                p.loss(torch.randn(8, 2, 1, 1), NONE(8), Noise.shared(0, 8))["generator"], p.generator.map.weight
            )[0]
            for p in (plain, marked)
        ]
        torch.testing.assert_close(slopes[1], 2 * slopes[0])
    else:  # the slope is with respect to the latent before, through the factor of two
        expected = 4 * prior.critic.map.weight.square().sum() / 2
        torch.testing.assert_close(terms["r1"], expected)


def test_what_cannot_be_augmented_is_refused():
    with pytest.raises(Misfit, match="Augmentation changes pictures"):
        Adversarial(Sequence(4, 2), Plane(), Plane(), augment=["colour"])
    with pytest.raises(UnknownName, match="Did you mean 'cutout'"):
        plane(augment=["cutuot"])


# ── drawing ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("limit", [0.5, 1.0, 2.0])
def test_truncation_is_the_restricted_normal(limit):
    """Kolmogorov and Smirnov against scipy's, 20,000 draws: below 0.0138 in 99.9 % of cases; fixed seed."""
    stats = pytest.importorskip("scipy.stats")
    w = truncated(torch.randn(20_000), limit)
    assert w.abs().max() <= limit
    assert stats.kstest(w.numpy(), stats.truncnorm(-limit, limit).cdf).statistic < 0.0138


def test_truncation_moves_a_seed_and_does_not_replace_it():
    w = torch.linspace(-5, 5, 101)
    torch.testing.assert_close(truncated(w, 12.0), w, atol=1e-4, rtol=0)
    for limit in (0.5, 2.0):
        assert (truncated(w, limit).diff() > 0).all()


def test_truncation_and_temperature_lower_the_variance():
    prior = plane()
    spread = lambda **options: prior.sample(NONE(2000), Noise.shared(0, 2000), **options).std(0).mean().item()
    full = spread()
    assert spread(truncation=0.5) < spread(truncation=1.5) < full
    assert spread(temperature=0.5) == pytest.approx(full / 2, rel=1e-4)
    assert spread(temperature=0.0) == pytest.approx(0, abs=1e-6)
    for wrong in ({"truncation": 0.0}, {"temperature": -1.0}):
        with pytest.raises(UsageError, match="needed"):
            prior.sample(NONE(1), Noise.each([0]), **wrong)


def test_a_row_is_its_seeds():
    prior = conditioned().eval()
    told = Condition(3, vector=torch.randn(3, 8))
    whole = prior.sample(told, Noise.each([7, 8, 9]), truncation=1.0)
    turned = prior.sample(Condition(3, vector=told.vector.flip(0)), Noise.each([9, 8, 7]), truncation=1.0)
    assert torch.equal(whole, turned.flip(0))


def test_known_entries_are_kept_and_the_rest_is_what_fits_them():
    """A linear generator: the search ends at the minimum of (G w − v)² over the known + 0.01 ‖w‖² / D, which is a
    linear system's solution; within 2e-3 after 1000 steps. The known entries are kept bit for bit."""
    space = Grid(4, 1, 1)
    prior = Adversarial(space, Plane(3, 4), Plane(4, 1, critic=True))
    value = torch.randn(5, 4, 1, 1)
    mask = torch.tensor([True, True, False, False]).reshape(1, 4, 1, 1).expand(5, -1, -1, -1)
    z = prior.sample(NONE(5), Noise.each(range(5)), known=(value, mask), search=1000)
    assert torch.equal(z[mask], value[mask])
    a, b = prior.generator.map.weight.double(), prior.generator.map.bias.double()
    near = a[:2].T @ a[:2] / 2 + 0.01 * torch.eye(3, dtype=torch.float64) / 3
    w = torch.linalg.solve(near, a[:2].T @ (value.flatten(1)[:, :2].double() - b[:2]).T / 2).T
    expected = (w @ a.T + b)[:, 2:].float()
    torch.testing.assert_close(z.flatten(1)[:, 2:], expected, atol=2e-3, rtol=0)
    free = prior.sample(NONE(5), Noise.each(range(5)))
    nothing = torch.zeros_like(mask)
    torch.testing.assert_close(prior.sample(NONE(5), Noise.each(range(5)), known=(value, nothing), search=0), free)


def test_inversion_finds_the_noise_of_a_drawn_picture():
    """Of pictures that the generator drew: the search comes within 5 % of their deviation in four of five cases."""
    prior = conditioned()
    told = Condition(10, vector=torch.randn(10, 8))
    z = prior.sample(told, Noise.each(range(10)))
    again = prior.sample(told, Noise.each(range(10)), start=prior.invert(z, told, steps=400))
    error = (again - z).flatten(1).norm(dim=1) / (z - z.mean(0)).flatten(1).norm(dim=1)
    assert error.median() < 0.05
    assert (error < 0.25).sum() >= 8


def test_there_is_no_log_probability():
    with pytest.raises(Misfit, match="no log-probability"):
        plane().log_prob(torch.zeros(1, 2, 1, 1), NONE(1), Noise.ambient(1))
    with pytest.raises(Misfit, match="Expected a batch"):
        plane().loss(torch.zeros(1, 3, 1, 1), NONE(1), Noise.ambient(1))
    with pytest.raises(UsageError, match="k-th"):
        plane(every=0)


# ── signs of a collapse ──────────────────────────────────────────────────────────────────────────────────────────────


def ring(rows, modes=8):
    angle = torch.randint(modes, (rows,)) * (2 * math.pi / 8)
    return torch.stack([angle.cos(), angle.sin()], 1).reshape(rows, 2, 1, 1) + 0.02 * torch.randn(rows, 2, 1, 1)


@pytest.mark.parametrize(
    ("made", "coverage", "variety"),
    [(lambda: ring(256), 0.97, 1.0), (lambda: ring(256, 4), 0.5, None), (lambda: ring(256, 1), 0.125, 0.02)],
    ids=["all", "half", "one"],
)
def test_the_gallery_sees_modes_that_are_missing(made, coverage, variety):
    """Coverage is the part of the ring's modes that are drawn (0.97 for all of it: five neighbours), ± 0.06."""
    gallery = Gallery()
    real, drawn = ring(256), made()
    for i in range(0, 256, 32):
        gallery.hang(real[i : i + 32], drawn[i : i + 32], torch.ones(32), -torch.ones(32))
    found = gallery.figures()
    assert found["coverage"] == pytest.approx(coverage, abs=0.06)
    if variety is not None:
        assert found["variety"] == pytest.approx(variety, abs=0.06)
    assert (found["critic_real"], found["critic_made"]) == (1, -1)
    assert gallery.figures() == {}


def test_the_gallery_keeps_the_latest_only_and_small():
    gallery = Gallery()
    for k in range(40):
        gallery.hang(
            torch.full((32, 3, 64, 64), float(k)), torch.zeros(32, 3, 64, 64), torch.zeros(32), torch.zeros(32)
        )
    kept = torch.cat(gallery.real)
    assert kept.shape == (256, 3 * 8 * 8)
    assert kept.min() == 32
    prior = plane()
    prior.loss(torch.randn(8, 2, 1, 1), NONE(8), Noise.ambient(8), player=1)
    assert set(prior.diagnostics()) == {"critic_real", "critic_made", "coverage", "variety"}
    prior.eval().loss(torch.randn(8, 2, 1, 1), NONE(8), Noise.ambient(8), player=1)
    assert prior.diagnostics() == {}  # a validation loss leaves no trace


class Deep(nn.Module):
    """Three hidden layers of 128 between noise and points, or between points and a logit."""

    noise = 16

    def __init__(self, inputs, outputs):
        super().__init__()
        layers = [part for a in (inputs, 128, 128) for part in (nn.Linear(a, 128), nn.LeakyReLU(0.2))]
        self.body, self.critic = nn.Sequential(*layers, nn.Linear(128, outputs)), outputs == 1

    def forward(self, x, condition):
        y = self.body(x.flatten(1))
        return y[:, 0] if self.critic else y[:, :, None, None]


@pytest.mark.slow
def test_a_ring_is_learned_with_a_penalty():
    """All 8 Gaussians of a ring, each with a fifth of its share at least within 3 σ, after 3000 steps (20 s)."""
    from sfumato.codecs.pixels import Pixels
    from sfumato.recipes.plan import Plan
    from sfumato.systems import System
    from sfumato.train.fit import fit
    from sfumato.train.state import State

    class Ring:
        def at(self, k):
            noise = Noise.shared(k, 256)
            angle = noise.integers(8) * (2 * math.pi / 8)
            points = torch.stack([angle.cos(), angle.sin()], 1) + 0.05 * noise.normal(2)
            return {"image": points[:, :, None, None]}

    prior = Adversarial(SPACE, Deep(16, 2), Deep(2, 1), loss="non-saturating", r1=0.1)
    system = System(Pixels(SPACE), prior)
    plan = Plan(steps=3000, batch=256, rate=1e-3, betas=(0.0, 0.99), ema=0.995, clip=0.0, floor=0.1)
    state = State(system, plan)
    for _ in fit(system, Ring(), plan, state=state):
        pass
    with state.average.swapped():
        points = prior.sample(NONE(2000), Noise.shared(0, 2000)).flatten(1)
    state.close()
    angle = torch.arange(8) * (2 * math.pi / 8)
    near = torch.cdist(points, torch.stack([angle.cos(), angle.sin()], 1)).min(1)
    counts = torch.bincount(near.indices[near.values < 0.15], minlength=8)
    assert (counts >= 50).all(), counts
