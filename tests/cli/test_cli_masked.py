"""Masked priors as a user meets them: train, sample with their own options, repaint a part."""

import json

import numpy as np
import pytest
from PIL import Image

from sfumato.cli import main


def here(capsys, *words):
    code = main([str(word) for word in words])
    said = capsys.readouterr()
    return code, said.out, said.err


@pytest.mark.parametrize(
    ("recipe", "options", "refused", "answer"),
    [
        (
            "maskgit",
            ["--steps", 3, "--choice-temperature", 0, "--temperature", 0.9, "--ramp", "linear"],
            "--head-steps",
            "drawn at once",
        ),
        (
            "mar",
            ["--steps", 3, "--order", "halton", "--head-steps", 2, "--ramp", "linear"],
            "--top-k",
            "no sampling option 'top_k'",
        ),
    ],
)
def test_a_masked_run_from_the_shell(recipe, options, refused, answer, capsys, tmp_path):
    """On the digits: four steps a stage; every option changes the picture, and one that the prior lacks is answered."""
    run = tmp_path / "run"
    train = ["train", recipe, "digits", "--out", run, "--size", "xs", "--steps", 4, "--score", 0, "--json"]
    code, out, err = here(capsys, *train)
    assert code == 0, err
    assert json.loads(out)["run"] == str(run)
    sample = ["sample", run, "--label", "3", "--guidance", 2, "--json"]
    code, out, err = here(capsys, *sample, *options, "--out", tmp_path / "a")
    assert code == 0, err
    text = Image.open(tmp_path / "a" / "0.png").text
    for name, value in zip(options[::2], options[1::2]):
        assert text[name[2:].replace("-", "_")] == str(float(value) if "temperature" in name else value)
    code, _, err = here(capsys, *sample, "--out", tmp_path / "b")
    assert code == 0, err
    assert Image.open(tmp_path / "b" / "0.png").text["steps"] in ("8", "64")  # as the prior was built
    code, _, err = here(capsys, *sample, refused, 3, "--out", tmp_path / "c")
    assert code == 2
    assert answer in err

    image = np.random.default_rng(0).integers(0, 256, (16, 16), dtype=np.uint8)
    mask = np.zeros((16, 16), dtype=np.uint8)
    mask[:, 9:] = 255
    Image.fromarray(image).save(tmp_path / "image.png")
    Image.fromarray(mask).save(tmp_path / "mask.png")
    edit = ["edit", run, tmp_path / "image.png", "--mask", tmp_path / "mask.png", "--label", "3", "--steps", 2]
    code, _, err = here(capsys, *edit, "--out", tmp_path / "edited")
    assert code == 0, err
    edited = np.asarray(Image.open(tmp_path / "edited" / "0.png").convert("L"))
    assert np.array_equal(edited[mask == 0], image[mask == 0])
    assert not np.array_equal(edited, image)
