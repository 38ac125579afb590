"""The JSON of a run folder, one key dropped, one value of another kind, or one letter changed at a time: whoever reads
it answers in a sentence, or reads on; nobody raises an error that was not foreseen."""

import json
import random
import shutil

import numpy as np
import pytest
from PIL import Image

from sfumato.cli import main

FILES = ("train.json", "data.json", "recipe.json", "scores.json", "metrics.jsonl", "model/recipe.json")
FILES += ("model/manifest.json", "checkpoints/4/state.json", "checkpoints/4/manifest.json")
ODD = [None, True, 0, -1, 10**400, 1.5, "", "x", [], {}, [1], {"a": 1}, "\0", "../../x", "nan"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    root = tmp_path_factory.mktemp("fuzz")
    for i in range(6):
        place = root / "data" / f"c{i % 2}" / f"{i}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.random.default_rng(i).integers(0, 256, (8, 8), dtype=np.uint8)).save(place)
    words = ["train", "ddpm", str(root / "data"), "--size", "xs", "--side", "8", "--steps", "4", "--batch", "4"]
    assert main([*words, "--save-every", "2", "--score", "2", "--out", str(root / "run")]) == 0
    return root / "run"


def spoil(text, draw):
    """The text with one thing wrong."""
    if draw.random() < 0.3:
        at = draw.randrange(len(text))
        return text[:at] + draw.choice('{}[]",:0aé\n\\ ') + text[at + 1 :]
    lines = text.splitlines()
    whole = json.loads(text) if text.lstrip().startswith("{\n") else json.loads(lines[0])
    place, parents = whole, []
    while isinstance(place, dict | list) and place and (not parents or draw.random() < 0.6):
        key = draw.choice(list(place) if isinstance(place, dict) else range(len(place)))
        parents.append((place, key))
        place = place[key]
    holder, key = parents[-1]
    if draw.random() < 0.4:
        del holder[key]
    else:
        holder[key] = draw.choice(ODD)
    changed = json.dumps(whole)
    return changed if len(lines) == 1 or text.lstrip().startswith("{\n") else "\n".join([changed, *lines[1:]])


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(10))
def test_a_spoiled_file_is_answered(run, tmp_path, capsys, seed):
    draw = random.Random(seed)
    for case in range(25):
        name = draw.choice(FILES)
        copy = tmp_path / "run"
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(run, copy)
        text = spoil((copy / name).read_text(), draw)
        (copy / name).write_text(text)
        verbs = (
            ["info", str(copy)],
            ["sample", str(copy), "-n", "1", "--steps", "1", "--out", str(tmp_path / "x.png")],
            ["resume", str(copy), "--score", "0"],
            ["report", str(copy), "-n", "1"],
        )
        for words in verbs:
            code = main(words)
            said = capsys.readouterr().err
            assert "did not foresee" not in said, (seed, case, name, words[0], said[-600:], text[:600])
            assert code in (0, 1, 2, 3, 4), (name, words[0], code)
