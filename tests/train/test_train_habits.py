"""What people do with trainings: move the data, train longer, forget the captions, look at what was held out."""

import json
import math
import os
import re
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

import sfumato
from sfumato.cli import main
from sfumato.core.errors import DataError, Diverged, UsageError, WeightsError
from sfumato.data import open_data
from sfumato.metrics.record import merged
from sfumato.report.run import write_report
from sfumato.train import clock
from sfumato.train.held import split
from sfumato.train.request import Request, read_request
from sfumato.train.run import resume, train


def pictures(folder, n=12, classes=0, side=8):
    for i in range(n):
        place = folder / (f"c{i % classes}" if classes else "") / f"{i}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.random.default_rng(i).integers(0, 256, (side, side), dtype=np.uint8)).save(place)
    return folder


def lines(run):
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


SMALL = {"size": "xs", "side": 8, "batch": 4, "quiet": True}


# ---- refusals at the start ----


@pytest.mark.parametrize(
    ("recipe", "classes", "dials", "answer"),
    [
        ("ldm", 0, {"text": True}, "ldm is to read captions, and .* has none"),
        ("ldm", 0, {"classes": 3}, "hear 3 classes, and .* has no labels"),
        ("ddpm", 3, {"classes": 2}, "hear 2 classes, and .* has 3"),
        ("ddpm", 3, {"text": True}, "ddpm is to read captions"),
        ("ddpm", 2, {"prompts": ["c9"]}, "No class is called 'c9'"),
    ],
)
def test_what_the_set_does_not_say_is_refused_before_anything_is_made(tmp_path, recipe, classes, dials, answer):
    data = pictures(tmp_path / "data", classes=classes)
    with pytest.raises((DataError, UsageError), match=answer):
        train(recipe, data, out=tmp_path / "run", steps=2, **SMALL, **dials)
    assert not (tmp_path / "run" / "train.json").exists()


def test_a_set_is_no_run_and_a_run_may_lie_in_it(tmp_path):
    data = pictures(tmp_path / "data")
    with pytest.raises(UsageError, match="is the set itself"):
        train("vqvae", data, out=data, steps=2, **SMALL)
    first = train("vqvae", data, out=data / "runs" / "a", steps=2, **SMALL)
    assert resume(first.path, quiet=True).steps == 2  # its own grids are no part of the set


def test_a_model_larger_than_the_machine_is_refused_in_a_sentence(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "sysconf", lambda name: 1000 if "PAGES" in name else 1)
    with pytest.raises(UsageError, match=r"bytes of weights, and this machine 1,000 bytes of memory"):
        train("vqvae", pictures(tmp_path / "data"), out=tmp_path / "run", steps=2, **SMALL)


# ---- few pictures, and what comes after a training ----


@pytest.mark.parametrize("n", [1, 2, 5])
def test_a_handful_of_pictures_trains_and_has_its_report(tmp_path, n, capsys):
    data = pictures(tmp_path / "data", n)
    words = ["train", "vqvae", str(data), "--size", "xs", "--side", "8", "--steps", "2", "--score", "4"]
    assert main([*words, "--out", str(tmp_path / "run")]) == 0
    assert (tmp_path / "run" / "report.html").exists()
    said = capsys.readouterr().err
    assert f"{n} pictures are few" in said
    scores = (
        json.loads((tmp_path / "run" / "scores.json").read_text())
        if (tmp_path / "run" / "scores.json").exists()
        else {}
    )
    lost = scores.get("protocol", {}).get("left_out", {})
    assert all(name in said for name in lost)
    assert scores or "could not be scored" in said


def test_scores_are_added_and_not_wiped():
    first = {
        "scores": {"psnr": 20.0, "fd": 5.0},
        "protocol": {"seed": 0, "n": 4, "scores": {"psnr": {}, "fd": {"k": 1}}},
    }
    again = {"scores": {"fd": 4.0}, "protocol": {"seed": 0, "n": 4, "scores": {"fd": {"k": 1}}}}
    other = {"scores": {"fd": 3.0}, "protocol": {"seed": 0, "n": 8, "scores": {"fd": {"k": 1}}}}
    found = merged(merged(merged({}, first, split="train"), again, split="train"), other, split="train")
    assert found["scores"] == {"psnr": 20.0, "fd": 3.0}
    assert [(r["name"], r["value"]) for r in found["records"]] == [("psnr", 20.0), ("fd", 4.0), ("fd", 3.0)]
    old = merged(first, other)  # a file of the first version, whose scores shared one protocol
    assert [(r["name"], r["value"]) for r in old["records"]] == [("psnr", 20.0), ("fd", 5.0), ("fd", 3.0)]


# ---- the data again ----


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    root = tmp_path_factory.mktemp("moved")
    pictures(root / "a" / "pics", classes=2)
    here = os.getcwd()
    os.chdir(root / "a")
    try:
        train("vqvae", "pics", out="../run", steps=4, **SMALL)
    finally:
        os.chdir(here)
    return root


def test_data_are_found_from_anywhere(trained, monkeypatch, tmp_path):
    for place in (trained, trained / "a", tmp_path):
        monkeypatch.chdir(place)
        assert resume(trained / "run", quiet=True).steps == 4
        assert "What this is" in write_report(trained / "run", samples=0).read_text()


def test_data_that_moved_are_named_anew(trained, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(trained, tmp_path / "copy")
    shutil.move(tmp_path / "copy" / "a" / "pics", tmp_path / "elsewhere")
    shutil.move(trained / "a" / "pics", trained / "hidden")
    try:
        with pytest.raises(DataError, match="name its new place by --data"):
            resume(tmp_path / "copy" / "run", quiet=True)
        assert resume(tmp_path / "copy" / "run", data=tmp_path / "elsewhere", quiet=True).steps == 4
    finally:
        shutil.move(trained / "hidden", trained / "a" / "pics")


def test_a_change_of_the_data_is_told(trained, tmp_path):
    changed = tmp_path / "pics"
    shutil.copytree(trained / "a" / "pics", changed)
    (changed / "c0" / "0.png").unlink()
    shutil.copy(changed / "c1" / "1.png", changed / "c1" / "new.png")
    shutil.copy(changed / "c1" / "3.png", changed / "c0" / "2.png")
    with pytest.raises(DataError) as caught:
        resume(trained / "run", data=changed, quiet=True)
    for words in (
        "1 pictures came (c1/new.png)",
        "1 pictures went (c0/0.png)",
        "1 pictures differ (c0/2.png)",
        "--data",
    ):
        assert words in str(caught.value)


# ---- train.json ----


@pytest.mark.parametrize(
    ("change", "answer"),
    [
        ({"recipe": 3}, "'recipe' cannot be '3'"),
        ({"steps": "ten"}, "'steps' cannot be 'ten'"),
        ({"steps": 0}, "steps must be positive"),
        ({"dials": []}, "'dials' cannot be"),
        ({"batch": True}, "'batch' cannot be 'True'"),
        ({"minutes": -1.0, "steps": None}, "minutes must be positive"),
        ({"given": {"codec": 4}}, "'given' cannot be"),
        ({"side": 10**12}, "side must be from 1 to 4,096"),
        ({"stpes": 4}, "nothing is called 'stpes' here"),
    ],
)
def test_a_damaged_request_names_its_key(trained, tmp_path, change, answer):
    record = json.loads((trained / "run" / "train.json").read_text())
    (tmp_path / "train.json").write_text(json.dumps(record | change))
    with pytest.raises(WeightsError, match=answer):
        read_request(tmp_path / "train.json")


def test_a_request_of_before_is_read(trained, tmp_path):
    record = json.loads((trained / "run" / "train.json").read_text())
    for name in ("recipe", "data", "dials"):
        (tmp_path / "train.json").write_text(json.dumps({k: v for k, v in record.items() if k != name}))
        with pytest.raises(WeightsError, match=f"lacks '{name}'"):
            read_request(tmp_path / "train.json")
    first = ("schema", "recipe", "data", "dials", "size", "side", "channels", "steps", "minutes", "batch", "seed")
    (tmp_path / "train.json").write_text(json.dumps({k: record[k] for k in first}))
    assert read_request(tmp_path / "train.json").held_out is None


# ---- longer ----


def test_a_finished_run_is_trained_further(tmp_path):
    data = pictures(tmp_path / "data")
    run = train("vqvae", data, out=tmp_path / "run", steps=6, **SMALL)
    before = {k: v.clone() for k, v in run.load().state_dict().items()}
    assert resume(run.path, quiet=True).steps == 6  # as it is, where nothing more is asked for
    longer = resume(run.path, steps=5, quiet=True)
    assert longer.steps == 11
    after = longer.load().state_dict()
    assert any(not torch.equal(before[name], after[name]) for name in before)
    assert [line["step"] for line in lines(tmp_path / "run")] == list(range(1, 12))
    assert resume(run.path, steps=2, quiet=True).steps == 13
    assert resume(run.path, quiet=True).steps == 13


def test_a_run_is_trained_further_by_minutes(tmp_path):
    run = train("vqvae", pictures(tmp_path / "data"), out=tmp_path / "run", steps=2, **SMALL)
    assert resume(run.path, minutes=0.002, quiet=True).steps > 2
    with pytest.raises(UsageError, match="give one of the two"):
        resume(run.path, minutes=1, steps=1, quiet=True)


def test_accumulation_is_an_option_and_changes_nothing_but_memory(tmp_path):
    data = pictures(tmp_path / "data")
    once = train("vae", data, out=tmp_path / "a", steps=4, **SMALL)
    parts = train("vae", data, out=tmp_path / "b", steps=4, accumulate=2, **SMALL)
    assert parts.loss == pytest.approx(once.loss, rel=1e-4)  # float32 sums in another order
    assert read_request(tmp_path / "b" / "train.json").accumulate == 2


# ---- what is held out ----


def test_which_part_is_held_out(tmp_path):
    data = pictures(tmp_path / "data", 40)
    source = open_data(data)
    request = lambda **more: Request("vae", str(data), {}, **more)
    assert split(source, request())[1] is None  # too few to lose any
    seen, held, how = split(source, request(held_out=0.25))
    assert (len(seen), len(held), how) == (30, 10, "10 of 40 pictures, taken by chance")
    again = split(open_data(data), request(held_out=0.25))
    assert torch.equal(again[1].image(3), held.image(3))
    digits = open_data("digits")
    seen, held, how = split(digits, request())
    assert (len(seen), len(held), how) == (1498, 256, "256 pictures of the part 'test'")
    assert split(digits, request(held_out=0))[1] is None


def test_a_part_is_held_out_whole_and_256_of_it_are_looked_at():
    digits = open_data("digits")
    seen, held, how = split(digits, Request("vae", "digits", {}, held_out=0.5))
    assert (len(seen), len(held)) == (749, 256)
    assert how == "749 of 1498 pictures, taken by chance, of which 256 are looked at"
    of = lambda source: {bytes(source.image(i).numpy()) for i in range(len(source))}
    fewer = split(digits, Request("vae", "digits", {}, held_out=0.1))[1]
    assert of(fewer) <= of(held)  # which ones come first is the seed's word
    assert not of(held) & of(seen)


@pytest.mark.parametrize(
    ("recipe", "held_out", "answer"),
    [
        ("vqvae", None, "Patience has nothing to wait for"),
        ("gan", 0.25, "Patience does not end the stage prior: of two players"),
        ("vqvae", 0.25, None),
    ],
)
def test_patience_that_ends_nothing_is_doubted(tmp_path, capsys, recipe, held_out, answer):
    data = pictures(tmp_path / "data", 40)
    words = [
        "train",
        recipe,
        str(data),
        "--size",
        "xs",
        "--side",
        "8",
        "--steps",
        "2",
        "--score",
        "0",
        "--patience",
        "2",
    ]
    words += [] if held_out is None else ["--held-out", str(held_out)]
    assert main([*words, "--out", str(tmp_path / "run")]) == 0
    said = capsys.readouterr().err
    assert ("Patience" in said) == (answer is not None)
    assert (answer or "") in said
    row = "none" if held_out is None else "on 10 of 40 pictures, taken by chance"
    assert re.search(rf"held-out loss +{row}", said)
    facts = json.loads((tmp_path / "run" / "data.json").read_text())["training"]
    assert facts["held_out"] == row.removeprefix("on ")


def test_the_held_out_loss_is_logged_its_best_kept_and_training_unchanged(tmp_path):
    """Looking changes nothing: the losses are those of a run that does not look."""
    told = {"steps": 60, "size": "xs", "side": 8, "batch": 4, "quiet": True}
    train("vqvae", "digits", out=tmp_path / "a", **told)
    train("vqvae", "digits", out=tmp_path / "b", held_out=0, **told)
    looked, plain = lines(tmp_path / "a"), lines(tmp_path / "b")
    assert [line["loss"] for line in looked] == [line["loss"] for line in plain]
    held = {line["step"]: line["held_out"] for line in looked if "held_out" in line}
    assert set(held) == {54, 60}  # of the ten marks, those from the fiftieth step on
    assert all(np.isfinite(list(held.values())))
    assert not any("held_out" in line for line in plain)
    assert (tmp_path / "a" / "best" / "weights.safetensors").exists()
    assert not (tmp_path / "b" / "best").exists()


def test_patience_ends_a_stage_with_its_best_weights(tmp_path, monkeypatch):
    from sfumato.train import stage

    losses = iter([1.0, 2.0, 3.0])
    monkeypatch.setattr(stage, "held_loss", lambda *_: next(losses))
    run = train("vqvae", "digits", out=tmp_path / "run", steps=200, patience=2, size="xs", side=8, batch=4, quiet=True)
    assert run.steps == 100  # looks at 60, 80 and 100, and none better since the first
    best = sfumato.load(tmp_path / "run" / "best").state_dict()
    final = run.load()
    trained = {name for name, _ in final.codec.named_parameters()}
    state = final.state_dict()
    assert all(torch.equal(state[f"codec.{name}"], best[f"codec.{name}"]) for name in trained)


@pytest.mark.parametrize("loss", [0.0, math.nan])
def test_a_look_has_a_full_line_whatever_it_found(tmp_path, monkeypatch, loss):
    """Of 200 steps every seventh has a line, and so has the look at the 60th: 0 is a loss like others."""
    from sfumato.train import log, stage

    monkeypatch.setattr(stage, "held_loss", lambda *_: loss)
    monkeypatch.setattr(log, "EVERY", 7)
    run = train("vqvae", "digits", out=tmp_path / "run", steps=200, size="xs", side=8, batch=4, quiet=True)
    looks = [line for line in lines(run.path) if "held_out" in line]
    assert [line["step"] for line in looks] == [60, 80, 100, 120, 140, 160, 180, 200]
    assert all(line["diagnostics"] for line in looks)
    best = run.path / "best"
    assert best.exists() == (loss == 0)


def test_a_finished_run_does_not_open_what_was_held_out(tmp_path, monkeypatch):
    from sfumato.train import held

    run = train("vqvae", "digits", out=tmp_path / "run", steps=2, size="xs", side=8, batch=4, quiet=True)
    opened = []
    monkeypatch.setattr(held, "open_data", lambda *a, **k: opened.append(a) or open_data(*a, **k))
    assert resume(run.path, quiet=True).steps == 2
    assert not opened
    assert resume(run.path, steps=1, quiet=True).steps == 3
    assert opened


# ---- half of it skipped ----


def test_the_clock_is_the_test_s_own(tmp_path, monkeypatch):
    """A clock that goes on by itself: the minutes end a training, whatever the machine does."""
    ticks = iter(range(10**9))
    monkeypatch.setattr(clock, "clock", lambda: next(ticks) * 0.05)
    run = train("vqvae", pictures(tmp_path / "data"), out=tmp_path / "run", minutes=0.5, **SMALL)
    assert 1 < run.steps < 400
    assert lines(tmp_path / "run")[-1]["progress"] > 0.9


def test_a_stage_that_skipped_half_of_its_steps_has_failed(tmp_path, monkeypatch):
    from sfumato.train import fit

    real, count = fit._Step._fault, iter(range(10**6))
    monkeypatch.setattr(fit._Step, "_fault", lambda self, *a: "a test's word" if next(count) % 2 else real(self, *a))
    with pytest.raises(Diverged, match="10 of the 20 steps of codec were skipped") as caught:
        train("vqvae", pictures(tmp_path / "data"), out=tmp_path / "run", steps=20, **SMALL)
    assert caught.value.exit_code == 4
    assert (tmp_path / "run" / "model" / "weights.safetensors").exists()


def test_the_opening_screen_says_what_will_be(tmp_path, capsys):
    data = pictures(tmp_path / "data", classes=2)
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(data / "cover.png")
    words = ["train", "vqvae", str(data), "--size", "xs", "--side", "16", "--steps", "3", "--score", "0"]
    assert main([*words, "--out", str(tmp_path / "run"), "--precision", "bf16"]) == 0
    said = capsys.readouterr().err
    before = said[: said.index("step 1 ")]
    for topic in (
        "13, shown as",
        "8x8 (13)",
        "labels",
        "shown at",
        "3 steps of 16 pictures, each picture",
        "cpu",
        "in bf16",
    ):
        assert topic in before
    for warning in (
        "no label",
        "smaller than 16",
        "A batch of 16 is more than the 13",
        "pictures are few",
        "takes about",
    ):
        assert warning in before
    facts = json.loads((tmp_path / "run" / "data.json").read_text())["training"]
    assert facts["stages"]["codec"] == {"steps": 3, "batch": 16, "times_each": pytest.approx(3.69, abs=0.01)}
    assert facts["seconds"] > 0
