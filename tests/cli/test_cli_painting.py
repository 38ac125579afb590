"""`sfumato edit` on pictures and masks as people have them: any size, transparency, strokes; what it read is said."""

import numpy as np
import pytest
import torch
from PIL import Image

import sfumato
from sfumato.cli import main


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    place = tmp_path_factory.mktemp("painting") / "run"
    with torch.random.fork_rng():
        torch.manual_seed(0)
        sfumato.build("ddpm", size="xs", side=16, channels=3).save_pretrained(place)
    return place


def write(path, values):
    Image.fromarray(values.astype(np.uint8)).save(path)
    return path


def edit(run, picture, mask, out, capsys):
    code = main(["edit", str(run), str(picture), "--mask", str(mask), "--steps", "2", "--out", str(out)])
    return code, capsys.readouterr().err


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize(("height", "width"), [(24, 32), (40, 16), (16, 16), (9, 7)])
def test_the_picture_comes_back_in_its_own_size(run, tmp_path, capsys, channels, height, width):
    values = np.random.default_rng(1).integers(0, 256, (height, width, channels))
    hole = np.zeros((height, width), bool)
    hole[2:5, 1:4] = True
    picture = write(tmp_path / "a.png", values.squeeze())
    code, err = edit(run, picture, write(tmp_path / "m.png", hole * 255), tmp_path / "out", capsys)
    assert code == 0, err
    after = Image.open(tmp_path / "out" / "0.png")
    assert after.size == (width, height)
    whole = Image.open(picture).convert(after.mode)
    assert np.array_equal(np.asarray(after)[~hole], np.asarray(whole)[~hole])
    assert not np.array_equal(np.asarray(after)[hole], np.asarray(whole)[hole])
    assert after.mode == ("RGBA" if channels == 4 else "RGB")
    assert "its light part is repainted" in err
    assert ("16×16" in err) == ((height, width) != (16, 16))


def test_strokes_and_holes_mean_what_their_makers_meant(run, tmp_path, capsys):
    """White strokes on a layer, and the picture with the same part erased: the same pixels change."""
    values = np.random.default_rng(1).integers(0, 256, (16, 16, 3))
    hole = np.zeros((16, 16), bool)
    hole[4:8, 4:12] = True
    picture = write(tmp_path / "a.png", values)
    strokes = np.dstack([np.full((16, 16, 3), 255), hole * 255])
    erased = np.dstack([values, ~hole * 255])
    shown = []
    for name, mask in (("strokes", strokes), ("erased", erased), ("plain", hole * 255)):
        code, err = edit(run, picture, write(tmp_path / f"{name}.png", mask), tmp_path / name, capsys)
        assert code == 0, err
        assert "repainted" in err
        shown.append(np.asarray(Image.open(tmp_path / name / "0.png")))
    assert np.array_equal(shown[0], shown[1])
    assert np.array_equal(shown[0], shown[2])
    assert np.array_equal(shown[0][~hole], values[~hole])


def test_a_mask_of_another_shape_is_refused(run, tmp_path, capsys):
    picture = write(tmp_path / "a.png", np.zeros((24, 32, 3)))
    for shape in ((32, 24), (48, 64), (24, 24)):
        code, err = edit(run, picture, write(tmp_path / "m.png", np.full(shape, 255)), tmp_path / "out", capsys)
        assert code == 3
        assert "a mask has the picture's own width and height" in err
    assert not (tmp_path / "out").exists()


def test_a_grid_may_be_a_jpeg_and_no_other_kind(run, tmp_path, capsys):
    place = tmp_path / "s.jpg"
    assert main(["sample", str(run), "-n", "2", "--steps", "2", "--out", str(place)]) == 0
    with Image.open(place) as file:
        assert file.format == "JPEG"
        assert b'"run"' in file.info["comment"]
    assert main(["sample", str(run), "-n", "2", "--steps", "2", "--out", str(tmp_path / "s.tiff")]) == 2
    assert "a grid ends in .png, .jpg, .jpeg" in capsys.readouterr().err


@pytest.mark.parametrize(("option", "answer"), [("guidance=2", "said by --guidance"), ("steps=3", "said twice")])
def test_an_option_that_has_a_flag_is_said_by_it(run, tmp_path, capsys, option, answer):
    words = ["sample", str(run), "--steps", "2", "--option", option, "--out", str(tmp_path / "x.png")]
    assert main(words) == 2
    assert answer in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "answer"),
    [
        (["-n", 10**12], "--number must be at most 1,000,000"),
        (["-n", 0], "--number must be at least 1"),
        (["--batch", 10**9], "--batch must be at most"),
        (["-n", 1, "--seed", 2**64], "A seed is a whole number from 0 to 2⁶⁴ − 1"),
        (["-n", 1, "--guidance", "nan"], "guidance takes"),
        (["-n", 1, "--option", "start=5"], "start takes"),
    ],
)
def test_numbers_that_make_no_sense_are_answered(run, tmp_path, capsys, words, answer):
    assert main(["sample", str(run), "--steps", "2", "--out", str(tmp_path / "x"), *map(str, words)]) == 2
    assert answer in capsys.readouterr().err


def test_latents_of_another_codec_are_refused(tmp_path, capsys):
    """Of the same shape they would decode, to a wrong picture; of a copy of the codec they do."""
    picture = write(tmp_path / "a.png", np.random.default_rng(0).integers(0, 256, (16, 16)))
    with torch.random.fork_rng():
        for seed in (0, 1):
            torch.manual_seed(seed)
            sfumato.build("vqvae", size="xs", side=16, channels=1).save_pretrained(tmp_path / f"r{seed}")
    sfumato.load(tmp_path / "r0").save_pretrained(tmp_path / "copy")
    file = str(tmp_path / "z.safetensors")
    assert main(["encode", str(tmp_path / "r0"), str(picture), "--out", file]) == 0
    assert main(["decode", str(tmp_path / "r1"), file, "--out", str(tmp_path / "y.png")]) == 2
    assert "r0, whose codec is not that of" in capsys.readouterr().err
    for name in ("r0", "copy"):
        assert main(["decode", str(tmp_path / name), file, "--out", str(tmp_path / "y.png")]) == 0
