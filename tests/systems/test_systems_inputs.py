"""What is handed to a system from outside is answered with what was given and what is wanted."""

import numpy as np
import pytest
import torch

from sfumato import recipes
from sfumato.checkpoint import load_model, read_json, save_model, write_json
from sfumato.core.errors import Misfit, UsageError, WeightsError


def built(name, **dials):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return recipes.build(name, size="xs", side=8, channels=1, **dials).eval()


@pytest.fixture(scope="module")
def drawer():
    system = built("ddpm", classes=3)
    system.classes = ["cat", "dog", "owl"]
    return system


@pytest.fixture(scope="module")
def codec():
    return built("vqvae")


X = torch.zeros(2, 1, 8, 8)


@pytest.mark.parametrize(
    ("images", "answer"),
    [
        (X[0], r"must be a batch.*one picture.*image\[None\]"),
        (X[:, :, :4], r"\(n, 1, 8, 8\) floats in \[−1, 1\], not \(2, 1, 4, 8\)"),
        (X.expand(2, 3, 8, 8), r"not \(2, 3, 8, 8\)"),
        (X.byte(), r"not torch.uint8. Of bytes"),
        (X + 255, r"run from 255 to 255. Of 0 … 255: x / 127.5 - 1"),
        (X * float("nan"), "NaN or infinite"),
        (X + float("inf"), "NaN or infinite"),
        (X.numpy(), "must be a tensor .*, not ndarray"),
        (None, "not NoneType"),
    ],
)
@pytest.mark.parametrize("verb", ["encode", "reconstruct", "edit", "log_prob", "bits_per_dim", "extend"])
def test_pictures_that_are_none_are_answered(drawer, codec, images, answer, verb):
    system = drawer if verb in ("edit", "log_prob", "bits_per_dim", "extend") else codec
    more = {"edit": (torch.ones(1, 1, 8, 8),), "extend": (8,)}.get(verb, ())
    if verb == "extend" and isinstance(images, torch.Tensor) and images.shape[-2:] == (4, 8):
        answer = "8 pixels high"
    if verb == "extend" and not (isinstance(images, torch.Tensor) and images.ndim == 4 and images.shape[1] == 1):
        answer = r"must be \(n, 1, H, W\)"
    if verb == "extend" and answer.startswith("not torch"):
        answer = "not torch.uint8"
    with pytest.raises((Misfit, UsageError), match=answer):
        getattr(system, verb)(images, *more)


def test_noisy_pictures_pass(codec):
    assert codec.encode(X + 3 * torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0)).clamp(-2, 2)).shape


@pytest.mark.parametrize(
    ("given", "answer"),
    [
        ({"label": -1}, "Label -1 is no class"),
        ({"label": [0, -2]}, "Label -2 is no class"),
        ({"label": 3}, "Label 3 is not one of the 3 classes"),
        ({"label": 1.0}, "whole numbers or names of classes, one an image, not torch.float32"),
        ({"label": True}, "not torch.bool"),
        ({"label": [[0, 1]]}, "one an image"),
        ({"label": ["cta"]}, "Did you mean 'cat'"),
        ({"label": ["cat"] * 3}, "2 images need 2 rows of 'label'"),
        ({"label": None}, "one value an image"),
        ({"label": {"cat": 1}}, "one value an image"),
        ({"text": "a cat"}, "not conditioned on 'text'"),
        ({"text": [1, 2]}, "Captions are strings"),
    ],
)
def test_conditions_that_are_none_are_answered(drawer, given, answer):
    with pytest.raises(UsageError, match=answer):
        drawer.sample(2, given, steps=1)


def test_a_class_is_named_in_python(drawer):
    """By name, by number, in a list, as numpy has it: the same pictures."""
    named = drawer.sample(2, {"label": ["owl", "cat"]}, steps=2)
    for label in ([2, 0], np.array([2, 0]), torch.tensor([2, 0]), ["owl", 0]):
        assert torch.equal(drawer.sample(2, {"label": label}, steps=2), named)
    assert torch.equal(drawer.sample(2, {"label": "owl"}, steps=2), drawer.sample(2, {"label": 2}, steps=2))


@pytest.mark.parametrize("seeds", [[2**64], [-(2**63) - 1], [10**400], ["a"], [None], [0.5], [float("nan")]])
def test_seeds_that_no_generator_takes_are_answered(drawer, seeds):
    with pytest.raises(UsageError, match="A seed is a whole number from 0 to 2⁶⁴ − 1"):
        drawer.sample(1, seeds=seeds, steps=1)


def test_the_largest_seed_draws(drawer):
    assert drawer.sample(1, seeds=[2**64 - 1], steps=1).isfinite().all()


@pytest.mark.parametrize("n", [0, -1, 1.0, True, None, "3"])
def test_a_number_of_images_is_a_whole_one(drawer, n):
    with pytest.raises(UsageError, match="whole number of at least 1"):
        drawer.sample(n)


@pytest.mark.parametrize(
    ("mask", "answer"),
    [
        (torch.ones(8, 4), "The mask is 4×8 and the picture 8×8"),
        (torch.ones(3, 1, 8, 8), r"A mask is \(2 or 1, 1, 8, 8\)"),
        (torch.ones(1, 3, 8, 8), r"A mask is \(2 or 1, 1, 8, 8\)"),
        (torch.full((1, 1, 8, 8), float("nan")), "NaN"),
        (np.ones((8, 8)), "A mask is a tensor"),
    ],
)
def test_masks_that_are_none_are_answered(drawer, mask, answer):
    with pytest.raises(Misfit, match=answer):
        drawer.edit(X, mask, steps=1)


def test_a_flat_mask_is_one_for_all(drawer):
    hole = torch.zeros(8, 8, dtype=torch.bool)
    hole[2:4] = True
    edited = drawer.edit(X, hole, steps=2)
    assert torch.equal(edited[:, :, ~hole], X[:, :, ~hole])
    assert torch.equal(edited, drawer.edit(X, hole[None, None].float(), steps=2))


@pytest.mark.parametrize(
    ("z", "answer"),
    [
        (torch.full((1, 4), 512), "tokens 0 … 511"),
        (torch.full((1, 4), -1), "tokens 0 … 511"),
        (torch.zeros(1, 5, dtype=torch.int64), "Expected a batch"),
        (torch.zeros(1, 4), "holds integers"),
    ],
)
def test_latents_that_are_none_are_answered(codec, z, answer):
    with pytest.raises(Misfit, match=answer):
        codec.decode(z)


def test_a_cascade_is_asked_as_a_system_is():
    cascade = recipes.build("cascade", size="xs", side=16, channels=1, classes=2)
    cascade.classes = ["cat", "dog"]
    assert torch.equal(cascade.sample(1, {"label": "dog"}, steps=2), cascade.sample(1, {"label": 1}, steps=2))
    for wrong in ({"lable": 1}, {"picture": X}):
        with pytest.raises(UsageError, match="not conditioned on"):
            cascade.sample(1, wrong)
    with pytest.raises(UsageError, match="A seed"):
        cascade.sample(1, seeds=[2**64])


# ---- names travel ----


def test_names_of_classes_travel_with_the_model(tmp_path, drawer):
    save_model(tmp_path / "pets", drawer)
    assert load_model(tmp_path / "pets").classes == ["cat", "dog", "owl"]


def test_a_run_of_before_has_its_names_in_data_json(tmp_path, drawer):
    """recipe.json of the model without names, beside RUN/data.json, as the first version wrote them."""
    run = tmp_path / "run"
    save_model(run / "model", drawer)
    record = read_json(run / "model" / "recipe.json")
    del record["classes"]
    (run / "model" / "manifest.json").unlink()
    write_json(run / "model" / "recipe.json", record)
    assert load_model(run).classes == []
    write_json(run / "data.json", {"classes": ["a", "b", "c"]})
    write_json(run / "train.json", {})
    assert load_model(run).classes == ["a", "b", "c"]
    assert load_model(run / "model").classes == ["a", "b", "c"]


@pytest.mark.parametrize("names", ["cat", [1, 2], {"a": 1}])
def test_names_that_are_none_are_refused(tmp_path, drawer, names):
    save_model(tmp_path, drawer)
    record = read_json(tmp_path / "recipe.json") | {"classes": names}
    (tmp_path / "manifest.json").unlink()
    write_json(tmp_path / "recipe.json", record)
    with pytest.raises(WeightsError, match="`classes` is no list of names"):
        load_model(tmp_path)
