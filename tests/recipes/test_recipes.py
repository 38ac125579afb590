"""Every recipe builds at every size, learns, and is written down; the paper's sizes have the paper's counts."""

import inspect
import json
import warnings

import pytest
import torch

from sfumato import recipes
from sfumato.core.errors import Misfit, UnknownName, UsageError
from sfumato.core.noise import Noise
from sfumato.core.space import Sequence
from sfumato.priors.orders import order_of
from sfumato.recipes.table import Dial
from sfumato.systems import Cascade, System

NAMES = list(recipes.RECIPES)
PUBLISHED = ["diffusers"]  # shapes from a config.json; tests/recipes/test_recipes_published.py
CODECS = ["ae", "dae", "vae", "vqvae", "dvae", "fsq", "vqgan", "vq-reg"]
PRIORS = ["ddpm", "edm", "rectified-flow", "pixel-ar", "ldm", "dit", "vq-ar", "cascade", "vdm"]
PRIORS += ["gud-pixel", "gud-pca", "gud-fourier", "gud-wavelet", "gud-columns", "gud-wavelet-columns", "gud-latent"]
PRIORS += ["vdvae", "deep-vae", "glow", "latent-glow", "maskgit", "mar"]
PRIORS += ["gan", "latent-gan", "latent-ar"]
OTHERS = ["vit"]  # have no latent; tests/recipes/test_recipes_vit.py


@pytest.fixture(autouse=True)
def _quiet_about_perceptual_weights():
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="No perceptual term")
        yield


def build(name, **dials):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return recipes.build(name, **dials)


def batch(side, channels=3, rows=4):
    image = torch.nn.functional.interpolate(Noise.each(range(rows)).uniform(channels, 4, 4) * 2 - 1, (side, side))
    texts = ["a red apple", "a blue square, flat", "红苹果", ""]
    return {"image": image, "label": torch.tensor([0, 1, 2, 0]), "text": texts, "index": torch.arange(rows)}


def test_the_table_holds_what_was_promised():
    assert sorted(NAMES) == sorted(CODECS + PRIORS + OTHERS + PUBLISHED)


@pytest.mark.parametrize("name", CODECS + PRIORS + OTHERS)
@pytest.mark.parametrize("size", ["xs", "s", "m", "paper"])
def test_every_recipe_builds_at_every_size_without_memory(name, size):
    with torch.device("meta"):
        system = recipes.build(name, size=size)
    assert system.recipe["name"] == name
    assert system.recipe["dials"]["size"] == size
    assert json.loads(json.dumps(system.recipe)) == system.recipe  # recipe.json can hold it
    assert set(system.recipe["dials"]) == set(recipes.RECIPES[name].dials)


@pytest.mark.parametrize("name", NAMES)
def test_every_recipe_says_what_it_is_and_whence(name):
    recipe = recipes.RECIPES[name]
    assert 20 < len(recipe.summary) < 160
    assert recipe.summary.endswith(".")
    assert recipe.source or name in ("ae", "pixel-ar"), "older than arXiv, or never on it"
    assert len(set(recipe.dials) - set(recipes.frame.ALL)) <= 3


@pytest.mark.parametrize("name", PRIORS)
@pytest.mark.parametrize("given", [{}, {"classes": 3}, {"text": True}, {"classes": 3, "text": True}])
def test_every_prior_learns_with_every_condition(name, given):
    """Four steps of AdamW on one batch lower the loss at fixed noise, and a sample comes out."""
    side = 8 if name == "pixel-ar" else 16  # 192 positions are sampled one by one, 768 would take their time
    system = build(name, size="xs", side=side, **given)
    data = batch(side)
    for stage, objective in system.stages().items():
        objective.prepare(lambda: [data])
        if stage.endswith("codec"):
            continue
        objective.train()
        optimiser = torch.optim.AdamW(objective.players()[0], lr=1e-3)
        losses = []
        for _ in range(5):
            loss = sum(objective.loss(data, noise=Noise.shared(1, 4)).values())
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            losses.append(loss.item())
        assert losses[-1] < losses[0]
    system.eval()
    said = {"label": [1, 2]} if "classes" in given else {}
    said |= {"text": ["a red apple", "红苹果"]} if "text" in given else {}
    known = inspect.signature(getattr(system, "last", system).prior.sample).parameters
    options = {"steps": 2} if "steps" in known else {}
    x = system.sample(2, said, guidance=1.5 if given else 1.0, batch=2, **options)
    assert x.shape == (2, 3, side, side)
    assert x.abs().max() <= 1
    assert not torch.equal(x[0], x[1])


@pytest.mark.parametrize("name", CODECS)
def test_every_codec_learns_and_measures_its_latents(name):
    system = build(name, size="xs", side=16)
    codec, data = system.codec, batch(16)
    codec.prepare(lambda: [data])
    codec.train()
    optimiser = torch.optim.AdamW(codec.players()[0], lr=3e-3)
    losses = []
    for _ in range(8):
        noise = Noise.shared(1, 4)
        loss = sum(codec.loss(data, noise=noise, progress=0.0).values())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        codec.settle(noise)
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    codec.finish(lambda: [data])
    codec.eval()
    z = system.encode(data["image"])
    assert tuple(z.shape[1:]) == codec.space.shape
    assert system.decode(z).shape == data["image"].shape
    if name in ("ae", "dae"):  # measured on these very images: mean 0 and deviation 1, up to float32
        torch.testing.assert_close(z.mean(), torch.tensor(0.0), atol=1e-4, rtol=0)
        torch.testing.assert_close(z.std(correction=0), torch.tensor(1.0), atol=1e-3, rtol=0)


def count(part):
    return sum(p.numel() for p in part.parameters())


@pytest.mark.parametrize(
    ("dials", "part", "published", "source"),
    [
        ({"name": "ddpm"}, "prior", 35.7e6, "Ho et al. 2020, appendix B: CIFAR-10, 35.7 M"),
        ({"name": "ldm"}, "prior", 400e6, "Rombach et al. 2022, table 10: LDM-4, 400 M, context 512"),
        ({"name": "dit"}, "dit", 675e6, "Peebles & Xie 2023, table 4: DiT-XL/2, 675 M"),
        ({"name": "dit", "classes": 1000, "size": "m", "side": 256}, "dit", 130e6, "same, DiT-B/2, 130 M"),
        ({"name": "vdvae"}, "prior", 39e6, "Child 2021, table 3: CIFAR-10, 39 M"),
        ({"name": "vdvae", "side": 64}, "prior", 125e6, "same, ImageNet-64, 125 M"),
        (
            {"name": "deep-vae"},
            "prior",
            387e6,
            "latent-vae-jax, imagenet256_kl8.py, counted layer by layer: decoder 289 M, encoder 88 M, attention 9 M",
        ),
        ({"name": "pixel-ar", "levels": 256}, "prior", 76e6, "Chen et al. 2020, section 3: iGPT-S, 76 M"),
        # The paper's 227 M (table 1) are the transformer and the tokenizer, whose 54,433,667 follow from the official
        # vqgan_config.py (no attention, 128 filters, multipliers 1 1 2 2 4, 1024 × 256 codes); ours is taming's, 72 M.
        (
            {"name": "maskgit", "codec": "vqgan"},
            "dit",
            227e6 - 54.43e6,
            "Chang et al. 2022, table 1: 227 M, 54.4 M of them the tokenizer",
        ),
        ({"name": "mar"}, "dit", 208e6, "github.com/LTH14/mar, README: MAR-B, 208 M, with a head of 6 blocks"),
        (
            {"name": "glow"},
            "prior",
            44.6e6,
            "openai/glow, all variables of K=32, L=3, width 512 on CIFAR-10 (arXiv:1807.03039, table 4), 44,603,604",
        ),
        (
            {"name": "gan", "design": "sngan"},
            "prior",
            4.277e6 + 1.054e6,
            "SNGAN on CIFAR-10, counted in kwotsin/mimicry: 4,276,739 and 1,053,825",
        ),
        (
            {"name": "gan", "design": "dcgan"},
            "prior",
            3.577e6 + 2.766e6,
            "DCGAN with 64 features, pytorch.org's tutorial: 3,576,704 and 2,765,568",
        ),
        ({"name": "gan"}, "prior", 23.058e6 + 23.010e6, "Huang et al. 2024, table 1: R3GAN on FFHQ-256"),
        (
            {"name": "vae", "side": 256, "factor": 8, "depth": 4},
            "codec",
            83.65e6,
            "stabilityai/sd-vae-ft-mse, 83,653,863",
        ),
    ],
    ids=lambda value: value.get("name") if isinstance(value, dict) else None,
)
def test_published_sizes(dials, part, published, source):
    """Within 2 % of the published count, on the meta device."""
    dials = {"size": "paper", **dials}
    name = dials.pop("name")
    with torch.device("meta"):
        system = recipes.build(name, **dials)
    found = count(system.prior) + count(system.conditioner) if part == "dit" else count(getattr(system, part))
    assert abs(found / published - 1) < 0.02, f"{found / 1e6:.1f} M, published {published / 1e6:.1f} M ({source})"


@pytest.mark.parametrize(("name", "millions"), [("S", 76), ("M", 455), ("L", 1362)])
def test_the_image_gpts(name, millions):
    """Chen et al. 2020, section 3: at 32 × 32 positions of 512 colours; pixel-ar's net at each published size."""
    from sfumato.core.space import Tokens
    from sfumato.recipes.given import Doors
    from sfumato.recipes.networks import causal
    from sfumato.recipes.sizes import IMAGE_GPT

    with torch.device("meta"):
        net = causal(IMAGE_GPT[name], Tokens(1024, 512, (32, 32)), Doors())
    assert abs(count(net) / 1e6 / millions - 1) < 0.02


@pytest.mark.parametrize("prior", ["autoregressive", "masked"])
@pytest.mark.parametrize("codec", ["vae", "dae", "vqvae", "fsq", "pixels", "tokens"])
def test_sequence_priors_model_every_latent(codec, prior):
    """Tokens and grids: a finite loss, and a picture that is its seed's."""
    side = 8 if codec in ("pixels", "tokens") else 16
    system = build(f"{codec}+{prior}", size="xs", side=side, classes=3)
    data = batch(side)
    for objective in system.stages().values():
        objective.prepare(lambda: [data])
    loss = sum(system.loss(data, noise=Noise.shared(1, 4)).values())
    assert bool(loss.isfinite())
    options = {"steps": 2} if prior == "masked" else {}
    x = system.eval().sample(1, {"label": [1]}, seeds=[3], batch=1, **options)
    assert x.shape == (1, 3, side, side)
    assert torch.equal(x, system.sample(1, {"label": [1]}, seeds=[3], batch=1, **options))


@pytest.mark.parametrize("name", ["vq-ar", "pixel-ar"])
def test_the_order_and_the_attention_are_dials(name):
    """DALL·E's layers by row, column, row, row, …, the last a neighbourhood; a line of the column order is a column."""
    make = lambda **dials: build(name, size="s", side=16 if name == "vq-ar" else 8, channels=2, **dials).prior
    plain = make()
    assert plain.order == "raster"
    assert set(plain.net.patterns) == {None}
    assert plain.net.origins is None
    height, width = plain.line.layout
    assert make(order="halton").places.tolist() == order_of("halton", plain.line).tolist()
    assert make(order="any").net.origins is not None
    for order, line in (("raster", width), ("column", height)):
        net = make(order=order, attention="sparse").net
        assert [(p.name, p.line) for p in net.patterns] == [(n, line) for n in ("row", "column", "row", "convolution")]
    with pytest.raises(UsageError, match=r"'halton' does not offer. Take --attention full"):
        make(order="halton", attention="sparse")


def test_a_chain_of_vectors_has_one_head_or_the_other():
    """A mixture says a density, a diffusion a bound; both learn from vectors that are read with noise."""
    mixture, diffusion = (build("latent-ar", size="xs", side=16, head=head).prior for head in ("mixture", "diffusion"))
    assert (mixture.kind, diffusion.kind) == ("exact", "bound")
    assert mixture.corrupt == diffusion.corrupt > 0
    assert build("vq-ar", size="xs", side=16).prior.corrupt == 0
    assert diffusion.head.space == Sequence(1, diffusion.line.width)
    with pytest.raises(Misfit, match=r"'latent-ar' models Grid.*--codec dae, vae"):
        build("latent-ar", codec="vqvae", size="xs", side=16)


def test_augmentation_is_a_dial_that_leaves_the_colours_of_latents_alone():
    for design in ("modern", "sngan", "dcgan"):
        assert build("gan", size="xs", side=16, design=design).prior.augment == ()
        system = build("gan", size="xs", side=16, design=design, augment=True)
        assert system.prior.augment == ("colour", "translation", "cutout")
    assert build("latent-gan", size="xs", side=16, augment=True).prior.augment == ("translation", "cutout")


def test_dials_are_read_in_their_own_type():
    recipe = recipes.RECIPES["ddpm"]
    read = recipe.read({"side": "64", "text": "true", "classes": 3.0})
    assert read == {"size": "s", "side": 64, "channels": 3, "classes": 3, "text": True, "schedule": "linear"}
    assert Dial("side", int | None, None).read("none") is None


@pytest.mark.parametrize(
    ("dials", "error", "message"),
    [
        ({"chanels": 3}, UsageError, "Did you mean 'channels'"),
        ({"size": "sm"}, UsageError, "--size 'sm' is not known"),
        ({"schedule": "kosine"}, UsageError, "Did you mean 'cosine'"),
        ({"side": "wide"}, UsageError, "--side takes int"),
        ({"side": 33}, UsageError, "Try --side 32"),
    ],
)
def test_wrong_dials_are_answered_with_advice(dials, error, message):
    with pytest.raises(error, match=message):
        recipes.build("ddpm", **dials)


def test_wrong_names_are_answered_with_the_nearest():
    with pytest.raises(UnknownName, match="Did you mean 'vqgan'"):
        recipes.build("vqgna")
    with pytest.raises(Misfit, match=r"Choose a prior for that kind of latent \(autoregressive.*--codec dae"):
        recipes.build("ldm", codec="vqvae", size="xs")
    with pytest.raises(Misfit, match="--codec vqvae"):
        recipes.build("vq-ar", codec="dae", size="xs")
    with pytest.raises(Misfit, match=r"'maskgit' models Tokens.*--codec vqvae"):
        recipes.build("maskgit", codec="vae", size="xs")
    with pytest.raises(Misfit, match=r"'mar' models Grid.*--codec dae, vae"):
        recipes.build("mar", codec="vqgan", size="xs")
    with pytest.raises(UsageError, match="does not learn a codec"):
        recipes.build("ldm", codec="ddpm", size="xs")


def test_a_codec_from_another_run_is_written_into_the_recipe():
    spec = json.dumps({"name": "dae", "dials": {"size": "xs", "side": 16, "channels": 1, "factor": 2, "depth": 5}})
    system = recipes.build("dit", size="xs", codec=spec, channels=1)
    assert system.codec.space.shape == (5, 8, 8)
    again = recipes.build(**{"name": system.recipe["name"], **system.recipe["dials"]})
    assert {k: v.shape for k, v in again.state_dict().items()} == {k: v.shape for k, v in system.state_dict().items()}
    with pytest.raises(UsageError, match="trained with --channels 1"):
        recipes.build("dit", size="xs", codec=spec, channels=3)


def test_a_pair_without_a_name_of_its_own_is_a_recipe():
    system = recipes.build("vae+dit", size="xs", classes=3)
    assert system.recipe["name"] == "vae+dit"
    assert system.recipe["dials"]["codec"] == "vae"
    again = recipes.build(**{"name": system.recipe["name"], **system.recipe["dials"]})
    assert {k: v.shape for k, v in again.state_dict().items()} == {k: v.shape for k, v in system.state_dict().items()}
    assert recipes.build("pixels+diffusion", size="xs").codec.space == recipes.build("ddpm", size="xs").codec.space
    with pytest.raises(Misfit, match=r"--codec dae, vae"):
        recipes.build("vqvae+dit", size="xs")
    with pytest.raises(UnknownName, match=r"No prior is called 'dti'. Did you mean 'dit'"):
        recipes.build("vae+dti")
    assert "vae+dit" in recipes.RECIPES
    assert "vae+dti" not in recipes.RECIPES
    assert "photos+more" not in recipes.RECIPES


def test_a_cascade_is_one_and_a_system_is_one():
    assert isinstance(build("cascade", size="xs"), Cascade)
    assert isinstance(build("vae", size="xs"), System)


def test_a_recipe_of_too_many_dials_is_refused():
    def crowded(frame: recipes.frame.Frame, a: int = 0, b: int = 0, c: int = 0, d: int = 0) -> System: ...

    with pytest.raises(ValueError, match="4 dials of its own; 3 are enough"):
        recipes.table.add("crowded", recipes.sizes.planner("codec"))(crowded)
    assert "crowded" not in recipes.RECIPES
