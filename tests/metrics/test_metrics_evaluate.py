"""The table and `evaluate`, on systems whose scores are known beforehand: cheats, constants and closed forms."""

import json
import math

import pytest
import torch
from torch import nn

from sfumato import recipes
from sfumato.core.condition import Condition
from sfumato.core.contracts import Codec, Conditioner, Prior
from sfumato.core.errors import DataError, UnknownName, UsageError
from sfumato.core.space import Grid, Tokens
from sfumato.data import open_data
from sfumato.metrics import METRICS, Classifier, accuracy, applicable, evaluate, extractor, fit_classifier, reference
from sfumato.metrics.evaluation import draw_rows
from sfumato.metrics.features import random as random_features
from sfumato.systems import System

RANDOM = extractor("random")


class Set:
    """40 pictures of 12 × 12, two classes: dark ones and light ones."""

    name, side, channels, labels, fingerprint = "toy", 12, 3, ["dark", "light"], "f" * 64

    def __init__(self, n=40, seed=0):
        g = torch.Generator().manual_seed(seed)
        self.of = torch.arange(n) % 2
        self.images = (torch.rand(n, 3, 12, 12, generator=g) * 0.8 + (self.of - 0.9).view(-1, 1, 1, 1)).clamp(-1, 1)
        self.images = ((self.images + 1) * 127.5).round() / 127.5 - 1

    def __len__(self):
        return len(self.images)

    def batch(self, rows):
        rows = list(rows)
        return {"image": self.images[rows], "label": self.of[rows], "index": torch.tensor(rows)}

    def label(self, i):
        return int(self.of[i])


class Copies:
    """Draws the set's own pictures: seed s draws picture s."""

    training, device, hears = True, torch.device("cpu"), ()

    def __init__(self, source):
        self.source, self.asked, self.modes = source, [], []

    def sample(self, n, given=None, *, seeds, batch, **options):
        self.asked.append((n, given, list(seeds), batch, options))
        return self.source.batch([s % len(self.source) for s in seeds])["image"]

    def eval(self):
        self.training = False
        self.modes.append("eval")

    def train(self):
        self.training = True
        self.modes.append("train")


def test_a_copy_of_the_set_is_perfect_and_carries_its_protocol():
    source = Set()
    system = Copies(source)
    told = []
    found = evaluate(system, source, n=40, features=RANDOM, batch=3, progress=lambda *a: told.append(a))
    scores, protocol = found["scores"], found["protocol"]
    assert set(scores) == {f"{name}-random@40" for name in ("fd", "kd", "precision", "recall", "density", "coverage")}
    assert scores["fd-random@40"] == pytest.approx(0, abs=1e-9)
    assert scores["precision-random@40"] == scores["recall-random@40"] == scores["coverage-random@40"] == 1
    assert protocol["features"]["sha256"] == RANDOM.hash
    assert protocol["reference"]["fingerprint"] == "f" * 64
    assert protocol["reference"]["rows"] == "all"
    assert protocol["samples"]["seeds"] == [0, 39]
    assert protocol["samples"]["given"]["from"] == "nothing"
    assert protocol["versions"]["torch"] == torch.__version__
    assert set(protocol["scores"]) == set(scores)
    assert protocol["scores"]["kd-random@40"]["subsets"] == 100
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert system.modes == ["eval", "train"]
    assert {what for what, _, _ in told} == {"reference", "samples"}
    assert told[-1][1] == told[-1][2] == 40
    assert sum(n for n, *_ in system.asked) == 40  # drawn once for six metrics


def test_noise_is_farther_than_another_draw_of_the_same_kind():
    source = Set(200)

    class Noisy(Copies):
        def sample(self, n, given=None, **rest):
            return (super().sample(n, given, **rest) * -1).clamp(-1, 1)

    near, far = (
        evaluate(s, source, ["fd", "kd"], n=100, features=RANDOM)["scores"]
        for s in (Copies(Set(100, 1)), Noisy(Set(100, 1)))
    )
    assert near["fd-random@100"] < far["fd-random@100"]
    assert near["kd-random@100"] < far["kd-random@100"]


def test_the_same_call_gives_the_same_numbers_and_another_seed_others():
    source, system = Set(60), Copies(Set(60, 1))
    first, again, other = (evaluate(system, source, ["fd"], n=30, features=RANDOM, seed=s)["scores"] for s in (0, 0, 5))
    assert first == again != other


def test_a_reference_is_measured_once_and_only_in_its_own_features():
    source = Set()
    known = reference(source, RANDOM, 20)
    told = []
    found = evaluate(
        Copies(source),
        source,
        ["fd"],
        n=20,
        features=RANDOM,
        reference=known,
        progress=lambda what, *_: told.append(what),
    )
    assert "reference" not in told
    assert found["scores"] == evaluate(Copies(source), source, ["fd"], n=20, features=RANDOM)["scores"]
    assert found["protocol"]["reference"]["count"] == 20
    with pytest.raises(UsageError, match="other features"):
        evaluate(
            Copies(source),
            source,
            ["fd"],
            n=20,
            features=random_features(seed=1),
            reference=known,
        )


def test_wrong_names_are_answered_before_anything_is_drawn():
    system = Copies(Set())
    with pytest.raises(UnknownName, match="'fd'"):
        evaluate(system, Set(), ["fd", "fdd"], n=10, features=RANDOM)
    assert system.asked == []
    with pytest.raises(UsageError, match="at least 2"):
        evaluate(system, Set(), ["fd"], n=1, features=RANDOM)


def test_training_mode_comes_back_after_an_error():
    system = Copies(Set())
    with pytest.raises(UsageError, match="judge"):
        evaluate(system, Set(), ["accuracy"], n=10, features=RANDOM)
    assert system.training


@pytest.mark.parametrize("name", METRICS)
def test_every_metric_says_what_it_is_and_whence(name):
    metric = METRICS[name]
    assert 10 < len(metric.about) < 90
    assert metric.source
    assert metric.better in ("lower", "higher")


def test_rows_are_drawn_without_repetition_and_in_passes():
    rows = draw_rows(10, 25, 0, "x")
    assert sorted(rows[:10]) == sorted(rows[10:20]) == list(range(10))
    assert rows[:10] != rows[10:20]
    assert draw_rows(10, 4, 0, "x") == rows[:4]
    assert draw_rows(10, 10, 1, "x") != rows[:10]


# ---- with conditions ----


class Obedient(Copies):
    """Draws a picture of the class asked for, or of the other one."""

    def __init__(self, source, obeys=True):
        super().__init__(source)
        self.hears, self.obeys = ("label",), obeys

    def sample(self, n, given=None, *, seeds, batch, **options):
        self.asked.append((n, given, list(seeds), batch, options))
        labels = given["label"] if self.obeys else 1 - given["label"]
        return self.source.batch([2 * (s % 20) + int(label) for s, label in zip(seeds, labels)])["image"]


@pytest.fixture(scope="module")
def judge():
    return fit_classifier(Set(), steps=30, batch=16, width=4)


def test_a_judge_learns_two_classes_from_its_seed(judge):
    assert accuracy(judge, Set(30, 7)) == 1
    again = fit_classifier(Set(), steps=30, batch=16, width=4)
    for a, b in zip(judge.parameters(), again.parameters()):
        assert torch.equal(a, b)
    other = Classifier(3, 12, 2, width=4, seed=1)
    assert not torch.equal(next(other.parameters()), next(Classifier(3, 12, 2, width=4).parameters()))


def test_a_judge_needs_labels():
    source = Set()
    source.batch = lambda rows: {"image": source.images[list(rows)]}
    with pytest.raises(DataError, match="labels"):
        fit_classifier(source, steps=1)


@pytest.mark.parametrize(("obeys", "expected"), [(True, 1.0), (False, 0.0)])
def test_accuracy_of_the_obedient_and_of_the_contrary(judge, obeys, expected):
    system = Obedient(Set(), obeys)
    found = evaluate(system, Set(), ["accuracy"], n=24, features=RANDOM, judge=judge, options={"guidance": 2.0})
    assert found["scores"] == {"accuracy": expected}
    assert found["protocol"]["samples"]["options"] == {"guidance": 2.0}
    assert found["protocol"]["samples"]["given"] == {"keys": ["label"], "from": "rows of the set, by the seed"}
    assert all(options == {"guidance": 2.0} for *_, options in system.asked)


def test_conditions_handed_in_are_used_as_they_are(judge):
    system = Obedient(Set())
    labels = torch.ones(20, dtype=torch.long)
    evaluate(system, Set(), ["accuracy"], n=20, features=RANDOM, judge=judge, given={"label": labels})
    assert torch.equal(torch.cat([given["label"] for _, given, *_ in system.asked]), labels)


def test_a_condition_that_the_set_lacks_is_asked_for():
    system = Copies(Set())
    system.hears = ("picture",)
    with pytest.raises(UsageError, match="'picture', which the set lacks"):
        evaluate(system, Set(), ["fd"], n=10, features=RANDOM)


class Illustrator(Copies):
    """Draws the picture of its set that has the caption asked for, or, if it errs, the one after it."""

    def __init__(self, source, errs=False):
        super().__init__(source)
        self.hears, self.errs = ("text",), errs
        self.places = {source.text(i): i for i in reversed(range(len(source)))}

    def sample(self, n, given=None, **rest):
        rows = [(self.places[text] + self.errs) % len(self.source) for text in given["text"]]
        return self.source.batch(rows)["image"]


def test_retrieval_on_emoji_of_one_who_knows_and_one_who_errs():
    """Who draws the caption's own picture is found first. Who draws the next emoji of the one style never is, since
    that picture is nearer. (Among three styles the next picture is often the same emoji in another style, and found.)
    """
    source = open_data("emoji:food", side=32)
    right = evaluate(Illustrator(source), source, ["retrieval"], n=40, features=RANDOM)
    flat = open_data("emoji:food+flat", side=32)
    wrong = evaluate(Illustrator(flat, errs=True), flat, ["retrieval"], n=40, features=RANDOM)
    assert right["scores"] == {"r@1-random@40": 1.0, "r@5-random@40": 1.0}
    assert wrong["scores"]["r@1-random@40"] == 0
    protocol = right["protocol"]["scores"]["r@5-random@40"]
    assert protocol["gallery"] == len(source)
    assert protocol["chance"] < 5 / (len(source) / 6)  # three styles, each at least half as large as the others
    assert "retrieval" in applicable(_with_prior(Illustrator(source)), source)


def test_scenes_are_read_back():
    source = open_data("scenes:n=30+objects=2", side=32)
    right = evaluate(Illustrator(source), source, ["scenes"], n=12, features=RANDOM)["scores"]
    wrong = evaluate(Illustrator(source, errs=True), source, ["scenes"], n=12, features=RANDOM)["scores"]
    assert right["scenes-correct"] == 1
    assert right["scenes-binding"] == 1
    assert wrong["scenes-binding"] < 0.7
    assert wrong["scenes-correct"] < 0.5


def _with_prior(system):
    system.prior = object()
    return system


# ---- through a real System: codecs, likelihoods, tokens ----


class Blur(Codec):
    """Half the height and width: learned by name, so that reconstructions are measured."""

    space, data, learned, exact, discrete, kind = Grid(3, 6, 6), Grid(3, 12, 12), True, False, False, "exact"

    def encode(self, x):
        return nn.functional.avg_pool2d(x, 2)

    def decode(self, z):
        return z.repeat_interleave(2, 2).repeat_interleave(2, 3)


class Same(Codec):
    space = data = Grid(3, 12, 12)
    exact, kind = True, "exact"

    def encode(self, x):
        return x

    def decode(self, z):
        return z

    def lift(self, x, noise=None):
        return x, torch.zeros(len(x))


class Uniform(Prior):
    """Even over the 256 bins of every value: 8 bits a dimension."""

    spaces, space, kind = (Grid,), Grid(3, 12, 12), "exact"

    def loss(self, z, condition, noise, progress=1.0, player=0):
        return {}

    def sample(self, condition, noise, *, null=None, guidance=1.0, known=None):
        return noise.uniform(3, 12, 12) * 2 - 1

    def log_prob(self, z, condition, noise):
        return torch.full((len(z),), -432 * math.log(256 / 127.5))


class Bins(Codec):
    """Each of 16 cells is one of 8 levels of its mean brightness."""

    space, data, learned, discrete = Tokens(16, 8, (4, 4)), Grid(3, 12, 12), True, True

    def encode(self, x):
        mean = nn.functional.avg_pool2d(x, 3).mean(1).flatten(1)
        return ((mean + 1) * 4).long().clamp(0, 7)

    def decode(self, z):
        grid = (z.float() / 4 - 7 / 8).view(-1, 1, 4, 4).expand(-1, 3, -1, -1)
        return grid.repeat_interleave(3, 2).repeat_interleave(3, 3)


def test_reconstructions_through_a_system():
    source, system = Set(), System(Blur())
    found = evaluate(system, source, n=40, features=RANDOM)
    assert set(found["scores"]) == {"rfd-random@40", "psnr", "ssim"}
    again = ((system.reconstruct(source.images) + 1) * 127.5).round() / 127.5 - 1
    per_image = 10 * torch.log10(4 / (again - source.images).double().square().mean((1, 2, 3)))
    assert found["scores"]["psnr"] == pytest.approx(float(per_image.mean()), rel=1e-6)
    assert found["scores"]["rfd-random@40"] > 0.01
    assert 0 < found["scores"]["ssim"] < 1


def test_an_exact_copy_has_a_finite_psnr():
    found = evaluate(System(Same()), Set(), ["psnr", "ssim", "rfd"], n=10, features=RANDOM)
    assert found["scores"]["psnr"] == 100
    assert found["scores"]["ssim"] == pytest.approx(1)
    assert found["scores"]["rfd-random@10"] == pytest.approx(0, abs=1e-9)
    json.dumps(found, allow_nan=False)


def test_bits_of_a_uniform_prior_are_eight():
    found = evaluate(System(Same(), Uniform()), Set(), ["bits"], n=20, features=RANDOM)
    assert found["scores"]["bits"] == pytest.approx(8, abs=1e-4)
    protocol = found["protocol"]["scores"]["bits"]
    assert (protocol["kind"], protocol["count"]) == ("exact", 20)
    assert "uniform" in protocol["dequantisation"]
    assert "bits" in applicable(System(Same(), Uniform()))


def test_codes_of_a_system():
    source, system = Set(), System(Bins())
    scores = evaluate(system, source, ["perplexity", "usage"], n=40, features=RANDOM)["scores"]
    counts = torch.bincount(system.encode(source.images).flatten(), minlength=8).double()
    p = counts[counts > 0] / counts.sum()
    assert scores["perplexity"] == pytest.approx(float((-(p * p.log()).sum()).exp()), rel=1e-9)
    assert scores["usage"] == float((counts > 0).double().mean()) < 1
    with pytest.raises(UsageError, match="codebooks"):
        evaluate(System(Blur()), source, ["usage"], n=10, features=RANDOM)


def test_lpips_is_any_distance_handed_in():
    class L1(nn.Module):
        def forward(self, x, y):
            return (x - y).abs().mean((1, 2, 3))

    found = evaluate(System(Blur()), Set(), ["lpips", "psnr"], n=10, features=RANDOM, lpips=L1())
    assert 0 < found["scores"]["lpips"] < 1
    assert found["protocol"]["scores"]["lpips"]["trunk"] == "L1"


class Words(Conditioner):
    keys = ("text",)

    def forward(self, given, noise=None):
        return Condition(len(given["text"]), vector=torch.tensor([[float(len(t))] for t in given["text"]]))

    def null(self, rows):
        return Condition(rows, vector=torch.zeros(rows, 1))


def test_a_real_conditioned_system_is_drawn_from_with_the_sets_captions():
    source = open_data("scenes:n=20", side=32)
    codec, prior = Same(), Uniform()
    codec.space = codec.data = prior.space = Grid(3, 32, 32)
    prior.sample = lambda condition, noise, **_: noise.uniform(3, 32, 32) * 2 - 1
    found = evaluate(System(codec, prior, Words()), source, ["fd", "scenes"], n=6, features=RANDOM, batch=4)
    assert found["protocol"]["samples"]["given"]["keys"] == ["text"]
    assert found["scores"]["scenes-correct"] == 0
    assert found["scores"]["fd-random@6"] > 0


def test_the_flow_of_a_diffusion_is_a_likelihood_of_its_own():
    """A gud system whose net says nothing (its data are then taken for Gaussian): both estimators name themselves, and
    the flow's figure is not above the bound's but for both standard errors."""
    torch.manual_seed(0)
    system = recipes.build("gud-pixel", size="xs", side=8, channels=1)
    system.prior.path.variance.fill_(0.3)
    source = open_data("digits", side=8, channels=1)
    found = evaluate(system, source, ["bits", "bits-flow"], n=24, features="random")
    upper, flow = found["scores"]["bits"], found["scores"]["bits-flow"]
    said = found["protocol"]["scores"]
    assert said["bits"]["estimator"] == "bound"
    assert said["bits-flow"]["estimator"] == "flow"
    slack = 2 * (said["bits"]["standard_error"] + said["bits-flow"]["standard_error"])
    assert 0 < flow < upper + slack
    with pytest.raises(UsageError, match="8-bit values"):
        evaluate(recipes.build("vdm", size="xs", side=8, channels=1), source, ["bits-flow"], n=2, features="random")
    with pytest.raises(UsageError, match="probability flow"):
        evaluate(recipes.build("pixel-ar", size="xs", side=4), source, ["bits-flow"], n=2, features="random")
