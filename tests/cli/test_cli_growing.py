"""extend, upscale, --stop and --softness on a tiny run over wavelets that draws from left to right."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from sfumato.cli import main


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("growing") / "run"
    words = ["train", "gud-wavelet-columns", "digits", "--out", folder, "--size", "xs", "--side", 16, "--steps", 4]
    assert main([str(word) for word in [*words, "--score", 0, "--json"]]) == 0
    return folder


def here(capsys, *words):
    code = main([str(word) for word in words])
    said = capsys.readouterr()
    return code, said.out, said.err


def saved(path, height, width, seed=0):
    pixels = np.random.default_rng(seed).integers(60, 196, (height, width), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return pixels


def pixels_of(path):
    return np.asarray(Image.open(path).convert("L"))


def test_extend_keeps_the_picture_and_goes_on_from_its_own_work(run, capsys, tmp_path):
    before = saved(tmp_path / "a.png", 16, 21)
    words = ["extend", run, tmp_path / "a.png", "--right", 13, "-n", 2, "--seed", 4, "--steps", 2]
    code, out, err = here(capsys, *words, "--out", tmp_path / "out", "--json")
    assert code == 0, err
    said = json.loads(out)
    assert (said["width"], [fact["seed"] for fact in said["images"]]) == (34, [4, 5])
    images = [pixels_of(tmp_path / "out" / f"{seed}.png") for seed in (4, 5)]
    for image in images:
        assert image.shape == (16, 34)
        assert np.array_equal(image[:, :21], before)
    assert not np.array_equal(images[0], images[1])
    text = Image.open(tmp_path / "out" / "4.png").text
    assert (text["source"], text["right"], text["stride"]) == (str(tmp_path / "a.png"), "13", "8")
    again = ["extend", run, tmp_path / "out" / "4.png", "--right", 5, "--steps", 2, "--out", tmp_path / "more"]
    assert here(capsys, *again)[0] == 0
    longer = pixels_of(tmp_path / "more" / "0.png")
    assert longer.shape == (16, 39)
    assert np.array_equal(longer[:, :34], images[0])


def test_extend_is_that_of_the_python_face(run, capsys, tmp_path):
    import sfumato

    pixels = saved(tmp_path / "a.png", 16, 16)
    x = torch.tensor(pixels).float()[None, None] / 127.5 - 1
    y = sfumato.load(run).extend(x, 9, steps=2, seeds=[3])
    assert (
        here(capsys, "extend", run, tmp_path / "a.png", "--right", 9, "--steps", 2, "--seed", 3, "--out", tmp_path)[0]
        == 0
    )
    assert np.array_equal(pixels_of(tmp_path / "3.png"), ((y[0, 0] + 1) * 127.5).round().byte().numpy())


def test_a_picture_to_extend_is_brought_to_the_height_whole(run, capsys, tmp_path):
    saved(tmp_path / "a.png", 48, 90)
    words = ["extend", run, tmp_path / "a.png", "--right", 8, "--steps", 1, "--out", tmp_path / "out"]
    assert here(capsys, *words)[0] == 0
    assert pixels_of(tmp_path / "out" / "0.png").shape == (16, 30 + 8)


@pytest.mark.parametrize("factor", [2, 4])
def test_upscale_keeps_the_averages(run, factor, capsys, tmp_path):
    """8-bit rounding of each pixel moves a mean by less than half a value; the small picture is exact but for it."""
    side = 16 // factor
    small = saved(tmp_path / "s.png", side, side)
    words = ["upscale", run, tmp_path / "s.png", "-n", 2, "--steps", 2, "--out", tmp_path / "out", "--json"]
    code, out, err = here(capsys, *words)
    assert code == 0, err
    assert json.loads(out)["factor"] == factor
    for seed in (0, 1):
        large = pixels_of(tmp_path / "out" / f"{seed}.png").astype(float)
        inside = ((large > 0) & (large < 255)).reshape(side, factor, side, factor).all((1, 3))
        average = large.reshape(side, factor, side, factor).mean((1, 3))
        assert np.abs(average - small)[inside].max() <= 0.5
        assert inside.mean() > 0.5


def test_a_picture_of_another_size_is_shrunk_as_little_as_needed(run, capsys, tmp_path):
    saved(tmp_path / "a.png", 20, 11)  # a square of 11 holds 8 × 8
    code, out, err = here(capsys, "upscale", run, tmp_path / "a.png", "--steps", 1, "--out", tmp_path / "o", "--json")
    assert code == 0
    assert json.loads(out)["factor"] == 2
    assert "11×20; its middle is taken at 8×8" in err
    words = ["upscale", run, tmp_path / "a.png", "--factor", 8, "--steps", 1, "--out", tmp_path / "o", "--json"]
    assert json.loads(here(capsys, *words)[1])["factor"] == 8


def test_previews_and_other_softnesses(run, capsys, tmp_path):
    """--stop and --softness reach the sampler, change the picture, and stand in the PNG."""
    import sfumato

    drawn = {}
    for name, words in {"end": [], "stop": ["--stop", 0.5], "soft": ["--softness", 0.9]}.items():
        code, _, err = here(capsys, "sample", run, "-n", 1, "--steps", 6, *words, "--out", tmp_path / name)
        assert code == 0, err
        drawn[name] = pixels_of(tmp_path / name / "0.png")
    assert not np.array_equal(drawn["end"], drawn["stop"])
    assert not np.array_equal(drawn["end"], drawn["soft"])
    assert Image.open(tmp_path / "stop" / "0.png").text["stop"] == "0.5"
    assert Image.open(tmp_path / "soft" / "0.png").text["softness"] == "0.9"
    system = sfumato.load(run)
    for name, options in {"stop": {"stop": 0.5}, "soft": {"softness": 0.9}}.items():
        image = system.sample(1, steps=6, seeds=[0], **options)
        assert np.array_equal(drawn[name], ((image[0, 0] + 1) * 127.5).round().byte().numpy())


@pytest.mark.parametrize(
    ("words", "answer"),
    [
        (["extend", "--right", 0], "--right must be at least 1"),
        (["extend", "--right", 4, "--stride", 5], "The stride is a multiple of 8"),
        (["upscale", "--factor", 3], "--factor is one of 2, 4, 8"),
        (["upscale"], "is 1 pixels across, and this run enlarges from 2 on"),
        (["upscale", "--softness", 3], "at most 1 for an order by place"),
    ],
)
def test_what_cannot_be_is_answered(run, words, answer, capsys, tmp_path):
    size = (1, 1) if words == ["upscale"] else (16, 16)
    Image.new("L", size).save(tmp_path / "a.png")
    verb, *rest = words
    code, _, err = here(capsys, verb, run, tmp_path / "a.png", *rest, "--out", tmp_path / "x.png")
    assert code == 2
    assert answer in err
    assert not (tmp_path / "x.png").exists()


def test_tokens_extend_and_say_that_they_do_not_upscale(trained, capsys, tmp_path):
    """vq-ar: cells of 4 pixels; what is upscaled needs components that are a smaller picture."""
    before = saved(tmp_path / "a.png", 16, 16)
    words = ["extend", trained[0], tmp_path / "a.png", "--right", 6, "--label", 3]
    code, _, err = here(capsys, *words, "--out", tmp_path / "out")
    assert code == 0, err
    found = pixels_of(tmp_path / "out" / "0.png")
    assert found.shape == (16, 22)
    assert np.array_equal(found[:, :16], before)
    code, _, err = here(capsys, "upscale", trained[0], tmp_path / "a.png", "--out", tmp_path / "x.png")
    assert code == 2
    assert "gud-wavelet" in err
    code, _, err = here(capsys, *words, "--stop", "0.5", "--out", tmp_path / "x.png")
    assert code == 2
    assert "no sampling option 'stop'" in err


def test_a_cascade_says_why_it_cannot(capsys, tmp_path):
    import sfumato

    sfumato.build("cascade", size="xs", side=16).save_pretrained(tmp_path / "model")
    saved(tmp_path / "a.png", 16, 16)
    for words in (
        ["extend", tmp_path / "model", tmp_path / "a.png", "--right", 4],
        ["upscale", tmp_path / "model", tmp_path / "a.png"],
    ):
        code, _, err = here(capsys, *words, "--out", tmp_path / "x.png")
        assert code == 2
        assert "is a cascade" in err
        assert "single system" in err


def test_an_option_is_for_one_system_of_a_cascade(capsys, tmp_path):
    """Other pictures than with the first one's steps for both, and those of the Python face."""
    import sfumato

    cascade = sfumato.build("cascade", size="xs", side=16, channels=1)
    cascade.save_pretrained(tmp_path / "model")
    words = ["sample", tmp_path / "model", "-n", 1, "--option", "small.steps=2", "large.steps=3", "--batch", 1]
    code, _, err = here(capsys, *words, "--out", tmp_path / "out")
    assert code == 0, err
    drawn = cascade.eval().sample(1, batch=1, **{"small.steps": 2, "large.steps": 3})
    found = torch.tensor(np.asarray(Image.open(tmp_path / "out" / "0.png"))).float() / 127.5 - 1
    assert (found.reshape(16, 16, -1)[..., 0] - drawn[0, 0]).abs().max() < 1 / 127.5
    other = cascade.sample(1, batch=1, steps=2)
    assert not torch.equal(drawn, other)
    code, _, err = here(capsys, *words[:5], "lage.steps=3", "--out", tmp_path / "no")
    assert code == 2
    assert "Did you mean 'large'" in err
