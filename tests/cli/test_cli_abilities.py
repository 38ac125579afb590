"""What is no generator of pictures, from the command line: a classifier, texts; and what a run is told that cannot."""

import csv
import json

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from sfumato.cli import main
from sfumato.data import open_data
from sfumato.train.run import train


def here(capsys, *words):
    code = main([str(word) for word in words])
    said = capsys.readouterr()
    return code, said.out, said.err


@pytest.fixture(scope="module")
def vit(tmp_path_factory):
    """Trained on a folder: 300 steps on the digits 0 and 1, which it tells apart."""
    folder = tmp_path_factory.mktemp("vit")
    digits = open_data("digits", side=8, channels=1)
    counts = {"zero": 0, "one": 0}
    for i in range(len(digits)):
        name = {0: "zero", 1: "one"}.get(digits.label(i))
        if name is not None and counts[name] < 60:
            place = folder / "set" / name
            place.mkdir(parents=True, exist_ok=True)
            Image.fromarray(digits.image(i)[0].numpy()).save(place / f"{counts[name]:02d}.png")
            counts[name] += 1
    train("vit", folder / "set", out=folder / "run", size="xs", side=8, steps=150, held_out=0.2, quiet=True)
    return folder


@pytest.fixture(scope="module")
def author(tmp_path_factory):
    folder = tmp_path_factory.mktemp("author")
    lines = [f"a {colour} {shape}" for colour in ("red", "green", "blue") for shape in ("cube", "ball", "cone")]
    (folder / "lines.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    train("words+autoregressive", folder / "lines.txt", out=folder / "run", size="xs", steps=250, quiet=True)
    return folder, lines


def test_classify_writes_a_table_and_a_picture(vit, capsys, tmp_path):
    code, out, _ = here(capsys, "classify", vit / "run", vit / "set", "--out", tmp_path / "what.csv", "--json")
    assert code == 0
    told = json.loads(out)
    rows = list(csv.DictReader((tmp_path / "what.csv").open(encoding="utf-8")))
    assert len(rows) == len(told["images"]) == 120
    right = sum(row["label"] == ("zero" if "/zero/" in row["file"] else "one") for row in rows)
    assert right >= 114  # two digits that a person never confuses: 95 % at least
    first = told["images"][0]
    assert first["probability"] + first["others"][0]["probability"] == pytest.approx(1, abs=1e-5)
    sheet = Image.open(tmp_path / "what.png")
    assert json.loads(sheet.text["label"])[0] == first["label"]


def test_classify_among_some_labels_only(vit, capsys, tmp_path):
    one = vit / "set" / "one" / "00.png"
    code, _, _ = here(capsys, "classify", vit / "run", one, "--labels", "zero,one", "--out", tmp_path / "a.json")
    assert code == 0
    assert json.loads((tmp_path / "a.json").read_text())[0]["label"] == "one"
    code, _, err = here(capsys, "classify", vit / "run", one, "--labels", "zero", "--out", tmp_path / "a.json")
    assert (code, "at least two classes" in err) == (2, True)
    code, _, err = here(capsys, "classify", vit / "run", one, "--labels", "zero,won", "--out", tmp_path / "a.json")
    assert (code, "Did you mean 'one'" in err) == (2, True)


def test_embed_writes_a_vector_a_picture(vit, capsys, tmp_path):
    code, _, _ = here(capsys, "embed", vit / "run", vit / "set" / "one", "--out", tmp_path / "e.safetensors")
    assert code == 0
    found = load_file(tmp_path / "e.safetensors")["embedding"]
    assert found.shape == (60, 64)
    assert bool(found.isfinite().all())


def test_a_classifier_is_scored_reported_and_described(vit, capsys):
    code, out, _ = here(capsys, "score", vit / "run", vit / "set", "--json")
    assert code == 0
    assert json.loads(out)["scores"]["top-1"] >= 0.95
    code, out, _ = here(capsys, "info", vit / "run", "--json")
    facts = json.loads(out)
    assert facts["parameters"]["network"] == facts["parameters"]["total"] > 0
    assert facts["parameters"]["codec"] == facts["parameters"]["prior"] == facts["parameters"]["conditioner"] == 0
    assert (facts["space"], facts["can"]) == (None, ["classifies", "embeds"])
    assert here(capsys, "report", vit / "run")[0] == 0
    page = (vit / "run" / "report.html").read_text(encoding="utf-8")
    assert "What it takes for what" in page
    assert "sfumato classify" in page
    grids = sorted((vit / "run" / "samples").glob("*.png"))
    assert grids, "the sheet of a classifier shows pictures with what they were called"


def test_a_classifier_goes_to_disk_and_back(vit, tmp_path):
    import sfumato

    system = sfumato.load(vit / "run")
    system.save_pretrained(tmp_path / "model")
    again = sfumato.load(tmp_path / "model")
    x = torch.rand(3, 1, 8, 8) * 2 - 1
    assert torch.equal(again.classify(x), system.classify(x))
    assert again.classes == ["one", "zero"]


def test_texts_are_drawn_told_and_written(author, capsys, tmp_path):
    folder, lines = author
    code, out, _ = here(capsys, "sample", folder / "run", "-n", 20, "--temperature", 0.5)
    assert code == 0
    drawn = out.splitlines()
    assert len(drawn) == 20
    assert sum(line in lines for line in drawn) >= 15  # nine lines are soon known by heart; a few draws may still err
    code, out, _ = here(capsys, "sample", folder / "run", "-n", 3, "--out", tmp_path / "t.txt", "--json")
    assert (tmp_path / "t.txt").read_text(encoding="utf-8").splitlines() == [
        fact["text"] for fact in json.loads((tmp_path / "t.json").read_text(encoding="utf-8"))
    ]
    assert json.loads(out)["written"] == [str(tmp_path / "t.txt"), str(tmp_path / "t.json")]
    code, _, err = here(capsys, "sample", folder / "run", "--out", tmp_path / "t.png")
    assert (code, "ends in .txt" in err) == (2, True)


def test_texts_are_scored_and_reported(author, capsys):
    folder, _ = author
    code, out, _ = here(capsys, "score", folder / "run", folder / "lines.txt", "--json")
    scores = json.loads(out)["scores"]
    assert code == 0
    assert set(scores) == {"bits-per-char", "bits-per-token"}
    # nine lines known by heart cost log2 9 = 3.2 bits each, of 11 characters: 0.3; a uniform byte costs 8
    assert 0.2 < scores["bits-per-char"] < 1
    assert here(capsys, "report", folder / "run")[0] == 0
    page = (folder / "run" / "report.html").read_text(encoding="utf-8")
    assert "The texts it learned from" in page
    assert "samples.txt" in page
    sheets = [p for p in (folder / "run" / "samples").glob("*.txt") if p.stem.isdecimal()]
    assert sheets
    assert len(sheets[0].read_text(encoding="utf-8").splitlines()) == 16


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["sample"], "is a vit: it can classify, embed, but not draw. Recipes that can: gan, "),
        (["reconstruct", "PICTURE"], "but not reconstruct. Recipes that can:"),
        (["encode", "PICTURE", "--out", "z.safetensors"], "but not encode. Recipes that can:"),
        (["edit", "PICTURE", "--mask", "PICTURE"], "but not draw. Recipes that can:"),
        (["interpolate", "PICTURE", "PICTURE"], "but not"),
    ],
    ids=lambda part: part[0] if isinstance(part, list) else "",
)
def test_a_verb_names_the_recipes_that_can(vit, capsys, words, said):
    picture = str(vit / "set" / "one" / "00.png")
    verb, *rest = [picture if word == "PICTURE" else word for word in words]
    code, _, err = here(capsys, verb, vit / "run", *rest)
    assert code == 2
    assert said in err


def test_a_run_that_draws_is_told_what_classifies(trained, capsys, tmp_path):
    run, _ = trained
    Image.new("L", (8, 8)).save(tmp_path / "p.png")
    code, _, err = here(capsys, "classify", run, tmp_path / "p.png")
    assert code == 2
    assert "is a vq-ar: it can draw, encode, decode, reconstruct, give likelihoods, but not classify." in err
    assert "Recipes that can: vit." in err


def test_a_set_of_the_other_kind_is_refused_with_what_fits(author, capsys, tmp_path):
    folder, _ = author
    code, _, err = here(capsys, "train", "ddpm", folder / "lines.txt", "--out", tmp_path / "a")
    assert (code, "ddpm learns from pictures" in err, "words+autoregressive" in err) == (3, True, True)
    code, _, err = here(capsys, "train", "words+autoregressive", "emoji:food", "--out", tmp_path / "b")
    assert (code, "learns from texts" in err, "write emoji:food+captions" in err) == (3, True, True)
    code, _, err = here(capsys, "train", "words+masked", "digits", "--out", tmp_path / "c")
    assert (code, "no captions either" in err) == (3, True)
    code, _, err = here(capsys, "score", folder / "run", "emoji:food")
    assert (code, "learns from texts" in err) == (3, True)
    code, _, err = here(capsys, "encode", folder / "run", "p.png", "--out", tmp_path / "z.safetensors")
    assert (code, "reads and draws texts" in err) == (2, True)


def test_texts_that_are_longer_than_what_is_read_are_doubted(capsys, tmp_path):
    lines = ["word " * 60 for _ in range(20)]
    (tmp_path / "long.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    train_it = ["train", "words+autoregressive", tmp_path / "long.txt", "--out", tmp_path / "run", "--size", "xs"]
    code, _, err = here(capsys, *train_it, "--steps", 1, "--score", 0)
    assert code == 0
    assert "of each 16 tokens are read, some 64" in err
    assert "DATA:window=64" in err
    cut = [
        "train",
        "words+autoregressive",
        f"{tmp_path / 'long.txt'}:window=64",
        "--out",
        tmp_path / "b",
        "--size",
        "xs",
    ]
    code, _, err = here(capsys, *cut, "--steps", 1, "--score", 0)
    assert (code, "the rest is not learned" in err) == (0, False)


def test_a_classifier_needs_labels(vit, capsys, tmp_path):
    code, _, err = here(capsys, "train", "vit", vit / "set" / "one", "--out", tmp_path / "run")
    assert (code, "has no labels. Put the pictures into a folder per class" in err) == (3, True)
