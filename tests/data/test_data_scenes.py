"""Scenes: drawn, told, read back, judged; each direction against its inverse."""

from __future__ import annotations

import hashlib
import itertools

import numpy as np
import pytest
import torch

from sfumato.core.errors import DataError, UnknownName, UsageError
from sfumato.data import open_data
from sfumato.data.scenes import COLORS, SHAPES, SIZES, arrange, describe, judge, parse, render, understand
from sfumato.data.scenes.draw import coverage, diameter, place
from sfumato.data.scenes.judge import see
from sfumato.data.scenes.words import meaning, relation, say


def facts(objects):
    return sorted((o.kind, o.x, o.y, o.box) for o in objects)


@pytest.mark.parametrize(("side", "count"), [(24, 64), (32, 240), (48, 64), (64, 160), (128, 24)])
def test_the_parser_is_exact_on_drawn_scenes(side, count):
    """Colour, shape, size and place of every object, and nothing else, for 1 to 8 objects."""
    for seed in range(count):
        objects = arrange(seed, side, 1 + seed % 8)
        assert facts(parse(render(objects, side))) == facts(objects)


@pytest.mark.parametrize("side", [24, 32, 64])
def test_every_kind_of_object_is_read_back_at_every_corner(side):
    for size, color, shape in itertools.product(SIZES, COLORS, SHAPES):
        end = side - diameter(size, side)
        for x, y in ((0, 0), (end, 0), (0, end), (end, end)):
            drawn = place(size, color, shape, x, y, side)
            (read,) = parse(render([drawn], side))
            assert (read.kind, read.box) == (drawn.kind, drawn.box)


def test_objects_keep_apart_and_inside():
    for side in (24, 32, 33, 50, 64):
        for seed in range(40):
            objects = arrange(seed, side, 8 - seed % 3)
            taken = np.zeros((side + 2, side + 2), int)
            for o in objects:
                x0, y0, x1, y1 = o.box
                assert min(o.box) >= 0
                assert max(o.box) <= side
                taken[y0 : y1 + 1, x0 : x1 + 1] += 1  # with one pixel to the right and below
            assert taken.max() == 1


def test_coverage_is_the_area_of_the_shape():
    """Areas in units of the box: 1, π/4, 1/2, 1/2 and 5/9; at 64 px, 8 × 8 points a pixel, within 1 %."""
    areas = {"square": 1, "circle": np.pi / 4, "triangle": 0.5, "diamond": 0.5, "cross": 5 / 9}
    for shape, area in areas.items():
        assert abs(coverage(shape, 64).mean() / area - 1) < 0.01


def test_the_parser_bears_noise_and_fading():
    """Noise of σ = 12 levels and colours faded by 15 % change no kind, and no centre by more than a pixel."""
    rng = np.random.default_rng(0)
    for seed in range(40):
        objects = arrange(seed, 64, 1 + seed % 6)
        picture = render(objects, 64).astype(float)
        picture = 255 - 0.85 * (255 - picture) + rng.normal(0, 12, picture.shape)
        got = parse(picture.clip(0, 255).astype(np.uint8))
        assert sorted(o.kind for o in got) == sorted(o.kind for o in objects)
        for o in objects:
            assert any(o.kind == g.kind and abs(o.x - g.x) <= 1 and abs(o.y - g.y) <= 1 for g in got)


def test_bytes_and_floats_are_read_alike():
    picture = torch.from_numpy(render(arrange(3, 32, 5), 32))
    assert facts(parse(picture)) == facts(parse(picture.float() / 127.5 - 1))


def test_masks_cover_the_objects():
    objects = arrange(5, 64, 4)
    seen = see(render(objects, 64))
    assert len(seen) == 4
    for o, mask in seen:
        x0, y0, x1, y1 = o.box
        assert (
            mask[y0:y1, x0:x1] == (coverage(o.shape, x1 - x0) >= 0.5)
        ).mean() > 0.97  # ½ exactly may fall either way
        assert mask.sum() == mask[y0:y1, x0:x1].sum()


def test_noise_and_emptiness_hold_no_scene():
    rng = np.random.default_rng(0)
    assert parse(np.full((3, 32, 32), 255, np.uint8)) == []
    caption = "a small red circle, a large blue square, a small green cross"
    for _ in range(10):
        scores = judge(rng.integers(0, 256, (3, 32, 32), dtype=np.uint8), caption)
        assert scores["correct"] == 0
        assert scores["binding"] <= 1 / 3
    assert judge(torch.full((3, 32, 32), float("nan")), caption)["binding"] == 0


@pytest.mark.parametrize("language", ["en", "zh"])
@pytest.mark.parametrize("choice", [0, 1, 2, 3])
def test_every_caption_means_what_it_was_made_from(language, choice):
    for seed in range(120):
        what = meaning(arrange(seed, 32, 1 + seed % 8), choice)
        assert understand(say(what, language)) == what


@pytest.mark.parametrize("language", ["en", "zh"])
def test_a_drawn_scene_fits_all_its_captions(language):
    for seed in range(60):
        objects = arrange(seed, 32, 1 + seed % 8)
        for choice in range(3):
            scores = judge(render(objects, 32), describe(objects, language, choice))
            assert set(scores.values()) == {1.0}, describe(objects, language, choice)


def test_captions_as_written_down():
    scene = [place("small", "red", "circle", 2, 20, 64), place("large", "orange", "cross", 40, 22, 64)]
    assert describe(scene) == "a small red circle left of a large orange cross"
    assert describe(scene, "zh") == "一个小的红色圆形在一个大的橙色十字形的左边"
    crowd = [place("large", "orange", "cross", x, 0, 64) for x in (0, 20, 40)] + scene[:1]
    assert describe(crowd) == "three large orange crosses, a small red circle"
    assert describe(crowd, "zh") == "三个大的橙色十字形，一个小的红色圆形"
    assert understand("An orange cross above two red circles.").relations == ((0, "above", 1),)


def test_relations_are_exclusive_and_opposite():
    at = lambda x, y: place("small", "red", "circle", x, y, 64)
    middle = at(20, 20)
    for (x, y), how in {
        (5, 15): "left of",
        (35, 30): "right of",
        (22, 3): "above",
        (15, 40): "below",
        (10, 10): "left of",
    }.items():
        assert relation(at(x, y), middle) == how
    assert relation(middle, middle) is None


def test_the_judge_tells_apart_what_is_wrong():
    """One fault at a time, with the scores worked out by hand."""
    a, b = place("small", "red", "circle", 5, 28, 64), place("large", "blue", "square", 40, 25, 64)
    caption = "a small red circle left of a large blue square"
    right = {"count": 1.0, "attributes": 1.0, "binding": 1.0, "relations": 1.0, "correct": 1.0}
    assert judge(render([a, b], 64), caption) == right
    swapped = [place("small", "blue", "circle", 5, 28, 64), place("large", "red", "square", 40, 25, 64)]
    assert judge(render(swapped, 64), caption) == {**right, "binding": 0, "relations": 0, "correct": 0}
    mirrored = [place("small", "red", "circle", 45, 28, 64), place("large", "blue", "square", 5, 25, 64)]
    assert judge(render(mirrored, 64), caption) == {**right, "relations": 0, "correct": 0}
    assert judge(render([a], 64), caption) == {
        "count": 0,
        "attributes": 0.5,
        "binding": 0.5,
        "relations": 0,
        "correct": 0,
    }
    three = [a, b, place("small", "green", "cross", 5, 5, 64)]
    assert judge(render(three, 64), caption) == {**right, "count": 0, "correct": 0}
    recoloured = [place("small", "yellow", "circle", 5, 28, 64), b]
    expected = {"count": 1, "attributes": (0.5 + 1 + 1) / 3, "binding": 0.5, "relations": 0, "correct": 0}
    assert judge(render(recoloured, 64), caption) == expected
    twice = judge(render([a, a.__class__(**{**b.__dict__})], 64), "two small red circles")
    assert twice == {"count": 1, "attributes": 0.5, "binding": 0.5, "correct": 0}


def test_a_noun_without_size_takes_what_the_others_leave():
    picture = render([place("small", "red", "circle", 5, 5, 64), place("large", "red", "circle", 40, 40, 64)], 64)
    assert judge(picture, "a red circle, a small red circle")["correct"] == 1
    assert judge(picture, "a red circle, a small red square")["binding"] == 0.5


@pytest.mark.parametrize(
    "wrong", ["", "a dog", "a red", "a small red circle near a blue square", "一个红色狗", "nine red circles"]
)
def test_other_sentences_are_not_understood(wrong):
    with pytest.raises(DataError, match="no caption of a scene"):
        understand(wrong)


@pytest.mark.parametrize("shape", [(3, 16, 16), (1, 32, 32), (3, 32, 40), (32, 32)])
def test_other_shapes_are_not_read(shape):
    with pytest.raises(DataError):
        parse(np.zeros(shape, np.uint8))


def test_scenes_as_a_set():
    source = open_data("scenes:n=64+objects=2-5+zh", side=48)
    assert (len(source), source.side, source.has_text) == (64, 48, True)
    assert source.labels == ["2 objects", "3 objects", "4 objects", "5 objects"]
    for i in range(0, 64, 5):
        assert len(parse(source.image(i))) == 2 + source.label(i)
        assert judge(source.image(i), source.text(i))["correct"] == 1
    assert torch.equal(open_data("scenes:n=9+objects=2-5", side=48).image(8), source.image(8))
    assert open_data("scenes:n=9", channels=1).image(0).shape == (1, 32, 32)
    assert open_data("scenes:n=9", side=8).image(7).shape == (3, 8, 8)
    assert open_data("scenes:n=9").text(2, 1) == open_data("scenes:n=9").text(2)
    varied = open_data("scenes:n=9+varied+objects=4")
    assert len({varied.text(2, choice) for choice in range(9)}) > 2
    both = open_data("scenes:n=9+en+zh")
    assert (both.text(0, 0)[0], both.text(0, 1)[1]) == ("a", "个")
    prints = {open_data(f"scenes:{q}").fingerprint for q in ("n=9", "n=8", "n=9+seed=1", "n=9+zh", "n=9+objects=3")}
    assert len(prints) == 5


def test_train_and_test_share_no_picture():
    """With three objects or more a coincidence has a chance below 1e-9 a pair."""
    train, test = (open_data("scenes:n=200+objects=3-8", split=s).batch(range(200))["image"] for s in ("train", "test"))
    assert not (train[:, None].flatten(2) == test[None].flatten(2)).all(-1).any()


def test_the_drawing_is_pinned():
    """Scores on scenes are comparable only while this stands; a change of the drawing must change VERSION."""
    source = open_data("scenes:n=3+objects=2")
    assert source.text(0) == "a large cyan diamond below a large red square"
    pixels = b"".join(source.image(i).numpy().tobytes() for i in range(3))
    assert hashlib.sha256(pixels).hexdigest()[:16] == "5c61ff475ae3ff9a"


@pytest.mark.parametrize("query", ["n=x", "objects=0", "objects=5-2", "objects=1-9", "n=0", "zh=1", "objects"])
def test_wrong_settings(query):
    with pytest.raises(UsageError):
        open_data(f"scenes:{query}")


def test_wrong_names():
    for call in (
        lambda: open_data("scenes:object=3"),
        lambda: open_data("scenes", split="tests"),
        lambda: open_data("scenes", language="de"),
    ):
        with pytest.raises(UnknownName):
            call()
