"""Training on from another run's weights: at the old loss, by the names of the classes, and from a published model."""

import json
import logging

import pytest
import torch
from PIL import Image
from transformers import ViTConfig, ViTForImageClassification

from sfumato import recipes
from sfumato.checkpoint import load_model
from sfumato.conditioners import Labels
from sfumato.core.errors import UsageError, WeightsError
from sfumato.core.noise import Noise
from sfumato.data import open_data
from sfumato.train.donors import take_given
from sfumato.train.request import Request
from sfumato.train.run import resume, train
from sfumato.train.tuning import take

HOW = {"size": "xs", "quiet": True, "sample_every": 0, "save_every": 0, "held_out": 0}


def pictures(folder, names, each=6):
    """Digits 0, 1, 2, … in folders called as they are not: classes that have names."""
    digits = open_data("digits", side=8, channels=1)
    for place, name in enumerate(names):
        mine = [i for i in range(400) if digits.label(i) == place][:each]
        (folder / name).mkdir(parents=True)
        for i in mine:
            Image.fromarray(digits.image(i)[0].numpy()).save(folder / name / f"{i:03d}.png")
    return folder


@pytest.fixture(scope="module")
def old(tmp_path_factory):
    """A vq-ar of 40 steps a stage, told the classes ant, bee, cow."""
    folder = tmp_path_factory.mktemp("old")
    pictures(folder / "set", ["ant", "bee", "cow"])
    train("vq-ar", folder / "set", out=folder / "run", steps=40, side=8, **HOW)
    return folder


def rows_of(system, source, names):
    """The first rows of a class each, as the system numbers the classes."""
    index = [next(i for i in range(len(source)) if source.labels[source.label(i)] == name) for name in names]
    batch = source.batch(index)
    return {**batch, "label": torch.tensor([system.classes.index(name) for name in names])}


def test_training_on_begins_at_the_old_loss(old, tmp_path):
    """Bitwise: on the same rows, with the same noise, before the first step."""
    donor = load_model(old / "run")
    request = Request("vq-ar", str(old / "set"), donor.recipe["dials"], size="xs", given={"all": str(old / "run")})
    system = recipes.build("vq-ar", **donor.recipe["dials"])
    system.classes = list(donor.classes)
    told, begun = take_given(system, request)
    assert begun == ["codec", "prior"]
    assert "begin as in" in told[0]
    batch = rows_of(donor, open_data(old / "set", side=8, channels=1), ["ant", "bee", "cow"])
    for stage in ("codec", "prior"):
        mine, theirs = (thing.eval().stages()[stage].loss(batch, 0, Noise.shared(7, 3)) for thing in (system, donor))
        assert {k: float(term.detach()) for k, term in mine.items()} == {
            k: float(t.detach()) for k, t in theirs.items()
        }


def test_a_run_goes_on_from_all_of_another_on_other_pictures(old, tmp_path):
    """Other pictures of other classes; what is built is the old run's, the first loss is near the old one, and far
    from that of a run which knows nothing."""
    new = pictures(tmp_path / "set", ["cow", "bee", "dog", "ant"])
    run = train("vq-ar", new, out=tmp_path / "run", steps=3, from_={"all": old / "run"}, **HOW)
    system = run.load()
    assert system.classes == ["ant", "bee", "cow", "dog"]
    assert system.recipe["dials"]["side"] == 8
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    fresh = train("vq-ar", new, out=tmp_path / "fresh", steps=3, side=8, **HOW)
    cold = [json.loads(line) for line in (fresh.path / "metrics.jsonl").read_text().splitlines()]
    first = lambda found, stage: next(line["loss"] for line in found if line.get("stage") == stage)
    before = [json.loads(line) for line in (old / "run" / "metrics.jsonl").read_text().splitlines()]
    assert {line.get("stage") for line in lines} == {"prior"}, "the codec that the prior stands on is kept"
    last = [line["loss"] for line in before if line.get("stage") == "prior"][-1]
    assert abs(first(lines, "prior") - last) < abs(first(cold, "prior") - last) / 2
    told = json.loads((tmp_path / "run" / "data.json").read_text())["training"]["from"]
    assert any("3 classes go on by their names, 1 begin anew (dog)" in sentence for sentence in told)


def test_a_resumed_tuning_is_the_straight_one(old, tmp_path, monkeypatch):
    from sfumato.train import stage as stages

    new = pictures(tmp_path / "set", ["cow", "dog"])
    how = {**HOW, "steps": 6, "batch": 4, "from_": {"all": old / "run"}, "save_every": 2}
    straight = train("vq-ar", new, out=tmp_path / "straight", **how).load()

    class Death(BaseException):
        pass

    def heed(self, step, honest=stages.Stage._heed):
        honest(self, step)
        if (self.name, step.step) == ("prior", 3):
            raise Death

    with monkeypatch.context() as patch:
        patch.setattr(stages.Stage, "_heed", heed)
        with pytest.raises(Death):
            train("vq-ar", new, out=tmp_path / "run", **how)
    again = resume(tmp_path / "run", quiet=True).load()
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in straight.state_dict().items())


def test_rows_of_labels_go_by_the_names_of_the_classes():
    """ant bee cow → bee dog ant: rows 1, new, 0, and the row of no label stays the last."""
    theirs, mine = Labels(3, 4), Labels(3, 4)
    fresh = mine.table.weight.clone()
    found = take(mine, theirs, ["bee", "dog", "ant"], ["ant", "bee", "cow"], "ours", "theirs")
    new, old = mine.table.weight, theirs.table.weight
    assert torch.equal(new, torch.stack([old[1], fresh[1], old[0], old[3]]))
    assert found.classes == (["bee", "ant"], ["dog"], ["cow"])
    assert found.by_class == ["table.weight"]
    said = " ".join(found.said("theirs"))
    assert "2 classes go on by their names, 1 begin anew (dog), 1 are left behind (cow)" in said


def test_more_or_fewer_classes_keep_what_they_share():
    theirs, mine = Labels(2, 4), Labels(4, 4)
    fresh = mine.table.weight.clone()
    take(mine, theirs, ["a", "b", "c", "d"], ["d", "b"], "ours", "theirs")
    old = theirs.table.weight
    assert torch.equal(mine.table.weight, torch.stack([fresh[0], old[1], fresh[2], old[0], old[2]]))
    few = Labels(1, 4)
    take(few, theirs, ["b"], ["d", "b"], "ours", "theirs")
    assert torch.equal(few.table.weight, torch.stack([old[1], old[2]]))


def test_what_is_another_model_is_refused_whole():
    theirs, mine = torch.nn.Linear(3, 4), torch.nn.Linear(3, 5)
    before = mine.weight.clone()
    with pytest.raises(WeightsError, match=r"reshaped weight: \(4, 3\), not \(5, 3\)"):
        take(mine, theirs, [], [], "ours", "theirs")
    with pytest.raises(WeightsError, match="missing weight"):
        take(mine, torch.nn.BatchNorm1d(5, affine=False), [], [], "ours", "theirs")
    assert torch.equal(mine.weight, before)


def test_all_of_another_recipe_is_refused_with_its_parts(old, tmp_path):
    with pytest.raises(UsageError, match=r"is a vq-ar, and maskgit is to be trained.*it has codec, prior"):
        train("maskgit", old / "set", out=tmp_path / "run", steps=1, from_={"all": old / "run"}, **HOW)


def test_with_tune_the_codec_is_trained_too(old, tmp_path):
    train("vq-ar", old / "set", out=tmp_path / "run", steps=2, from_={"all": old / "run"}, tune=True, **HOW)
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [line["stage"] for line in lines if "step" in line] == ["codec", "codec", "prior", "prior"]


def test_a_part_is_tuned_or_left_as_it_is(old, tmp_path):
    """--from codec=RUN is not trained; with tune it is."""
    left = train("vq-ar", old / "set", out=tmp_path / "left", steps=2, from_={"codec": old / "run"}, **HOW).load()
    tuned = train(
        "vq-ar", old / "set", out=tmp_path / "tuned", steps=2, from_={"codec": old / "run"}, tune=True, **HOW
    ).load()
    was = load_model(old / "run").codec.state_dict()
    same = lambda system: all(torch.equal(value, was[name]) for name, value in system.codec.state_dict().items())
    assert same(left)
    assert not same(tuned)
    moved = max(float((value.detach() - was[name]).abs().max()) for name, value in tuned.codec.named_parameters())
    assert moved < 0.05  # two steps of a rate of 2e-3 and its warm-up move no weight by more


def test_a_published_vit_goes_on_with_pictures_of_ones_own(tmp_path):
    """A folder as transformers saves it, of the shape Ti: its classes by name, its trunk as it was."""
    torch.manual_seed(0)
    config = ViTConfig(
        hidden_size=192,
        num_hidden_layers=12,
        num_attention_heads=3,
        intermediate_size=768,
        image_size=16,
        patch_size=8,
        id2label={0: "bee", 1: "ant", 2: "yak"},
        label2id={"bee": 0, "ant": 1, "yak": 2},
    )
    theirs = ViTForImageClassification(config).eval()
    theirs.save_pretrained(tmp_path / "hub")
    new = pictures(tmp_path / "set", ["ant", "bee"])
    how = HOW | {"batch": 4}
    run = train("vit", new, out=tmp_path / "run", steps=1, from_={"all": tmp_path / "hub"}, **how)
    system = run.load()
    assert system.classes == ["ant", "bee"]
    assert system.recipe["dials"] | {"trunk": "Ti", "side": 16, "patch": 8, "channels": 3} == system.recipe["dials"]
    head = theirs.classifier.weight[[1, 0]]
    torch.testing.assert_close(system.network.head.weight, head, atol=5e-3, rtol=0)  # one step of a rate of 2e-3
    assert float((system.network.head.weight - theirs.classifier.weight[:2]).abs().max()) > 1e-3


def test_a_finished_run_offers_to_go_on(old, caplog):
    caplog.set_level(logging.INFO, logger="sfumato")
    resume(old / "run")
    assert "is finished. --steps or --minutes train it longer" in caplog.text
    assert f"--from all={old / 'run'}" in caplog.text
