"""A flow's whole life on the command line: trained, drawn from, walked through, scored, counted."""

import json

import numpy as np
import pytest
from PIL import Image

from sfumato.cli import main


def here(capsys, *words):
    code = main([str(word) for word in words])
    said = capsys.readouterr()
    return code, said.out, said.err


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("flow") / "run"
    words = ["train", "glow", "digits", "--size", "xs", "--steps", 20, "--batch", 8, "--score", 0, "--out", folder]
    assert main([str(word) for word in words]) == 0
    return folder


def test_a_flow_is_trained_drawn_walked_and_scored(run, capsys, tmp_path):
    dials = json.loads((run / "recipe.json").read_text())["dials"]
    assert (dials["classes"], dials["channels"], dials["coupling"]) == (10, 1, "affine")
    words = ["sample", run, "--label", 3, 7, "--guidance", 1.5, "--temperature", 0.7]
    code, _, err = here(capsys, *words, "--out", tmp_path / "drawn")
    assert code == 0, err
    image = Image.open(tmp_path / "drawn" / "0.png")
    assert image.text["temperature"] == "0.7"
    assert here(capsys, "sample", run, "--steps", 5)[0] == 2  # a flow has no steps

    pictures = [tmp_path / f"{seed}.png" for seed in (0, 1)]
    for path, seed in zip(pictures, (0, 1)):
        noise = np.random.default_rng(seed).integers(0, 256, (16, 16), dtype=np.uint8)
        Image.fromarray(noise).save(path)
    words = ["interpolate", run, *pictures, "--frames", 3, "--out", tmp_path / "way"]
    assert here(capsys, *words)[0] == 0
    for frame, path in zip(("000", "002"), pictures):
        assert np.array_equal(Image.open(tmp_path / "way" / f"{frame}.png").convert("L"), Image.open(path))
    code, _, err = here(capsys, *words, "--steps", 5)
    assert code == 2
    assert "no sampling option 'steps'" in err

    words = ["score", run, "digits", "--metrics", "bits", "-n", 32, "--out", tmp_path / "scores.json", "--json"]
    code, out, err = here(capsys, *words)
    assert code == 0, err
    assert 0 < json.loads(out)["scores"]["bits"] < 8  # twenty steps from a start that knows mean and deviation
    assert here(capsys, "edit", run, pictures[0], "--mask", pictures[1])[0] == 2


def test_info_of_the_published_glow(capsys):
    facts = json.loads(here(capsys, "info", "glow", "--size", "paper", "--json")[1])
    assert abs(facts["parameters"]["prior"] / 44.6e6 - 1) < 0.02
    assert facts["parameters"]["total"] == facts["parameters"]["prior"]
    assert facts["data"] == "Grid(channels=3, height=32, width=32)"
    assert facts["compute"]["prior"] > 1e9
