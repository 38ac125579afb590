"""`import sfumato`: the few names at the door, and the ways of a model to disk and to the hub."""

import base64
import io
import json
import subprocess
import sys

import pytest
import torch
from PIL import Image

import sfumato
from sfumato.cli import main
from sfumato.core.errors import Misfit, UsageError, WeightsError
from sfumato.train.run import Run


@pytest.fixture
def system():
    torch.manual_seed(0)
    return sfumato.build("vae", size="xs")


def same(a, b):
    a, b = a.state_dict(), b.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_the_face_has_the_names_of_the_interface():
    for name in ("build", "train", "load", "show", "System", "Cascade"):
        assert callable(getattr(sfumato, name))
        assert name in dir(sfumato)
    with pytest.raises(AttributeError, match="nothing"):
        sfumato.nothing  # noqa: B018


def test_train_is_a_verb_and_a_room_whoever_is_imported_first(tmp_path):
    """Importing anything below sfumato.train binds the package to the verb's name; both must go on working."""
    code = (
        "import sfumato\n"
        "first = sfumato.train\n"
        "import sfumato.train.optim\n"
        "assert sfumato.train.optim and first is sfumato.train\n"
        "run = sfumato.train('ddpm', 'digits', out='run', size='xs', side=8, steps=1, batch=2, quiet=True)\n"
        "again = sfumato.train('ddpm', 'digits', out='again', size='xs', side=8, steps=1, batch=2, quiet=True)\n"
        "assert (run.steps, again.steps) == (1, 1)\n"
        "assert sfumato.load('run').sample(1, steps=1).shape == (1, 1, 8, 8)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_system_comes_back_from_its_folder(system, tmp_path):
    system.save_pretrained(tmp_path / "model")
    again = sfumato.System.from_pretrained(tmp_path / "model")
    assert same(system, again)
    assert not again.training
    assert same(again, sfumato.load(tmp_path / "model"))


def test_a_cascade_is_no_system(tmp_path):
    sfumato.build("cascade", size="xs").save_pretrained(tmp_path / "model")
    assert isinstance(sfumato.Cascade.from_pretrained(tmp_path / "model"), sfumato.Cascade)
    with pytest.raises(Misfit, match="Cascade, not a System"):
        sfumato.System.from_pretrained(tmp_path / "model")


@pytest.fixture
def no_network(monkeypatch):
    """Whoever asks the hub fails the test; so does any other door to the network."""
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *_, **__: pytest.fail("it asked the hub"))
    monkeypatch.setattr("socket.socket.connect", lambda *_: pytest.fail("it opened a connection"))


@pytest.mark.parametrize(
    ("typed", "answer"),
    [
        ("runs/ldn", "Did you mean 'runs/ldm'"),  # a folder beside it
        ("rusn/ldm", "Did you mean 'runs/ldm'"),  # nearly the usual folder
        ("rnus/lmd", "Did you mean 'runs/ldm'"),
        ("emojis/ldm", "Did you mean 'emoji/ldm'"),  # nearly a run that is here
        ("emoji/other", "Did you mean 'emoji/ldm'"),
        ("./someone/vae", "There is no run at"),
        ("someone/vae/model", "There is no run at"),
        ("someone/vae.safetensors", "There is no run at"),
        ("../someone", "There is no run at"),
        ("~/ldm", "There is no run at"),
        ("ldm", "Did you mean"),
        ("out/new", "There is no run at"),
    ],
)
def test_a_misspelt_run_never_reaches_the_network(tmp_path, monkeypatch, no_network, typed, answer):
    monkeypatch.chdir(tmp_path)
    for run in ("runs/ldm", "emoji/ldm"):
        (tmp_path / run).mkdir(parents=True)
        (tmp_path / run / "train.json").write_text("{}")
    with pytest.raises(UsageError, match=answer):
        sfumato.load(typed)


@pytest.mark.parametrize("how", ["variable", "argument"])
def test_offline_only_the_cache_is_looked_at(system, tmp_path, monkeypatch, how):
    """The hub's own cache and its own function, and no network: what is there is loaded, what is not is said."""
    monkeypatch.setattr("socket.socket.connect", lambda *_: pytest.fail("it opened a connection"))
    commit = "0123456789012345678901234567890123456789"
    repository = tmp_path / "models--someone--vae"
    system.save_pretrained(repository / "snapshots" / commit)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    options = {"cache_dir": tmp_path} | ({"local_files_only": True} if how == "argument" else {})
    if how == "variable":
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert same(system, sfumato.load("hub:someone/vae", **options))
    assert same(system, sfumato.load("someone/vae", revision=commit, **options))
    with pytest.raises(WeightsError, match="not in the hub's cache, and"):
        sfumato.load("hub:someone/other", **options)
    with pytest.raises(UsageError, match="There is no run at someone/other"):
        sfumato.load("someone/other", **options)
    if how == "variable":
        with pytest.raises(UsageError, match="nothing is pushed"):
            system.push_to_hub("someone/vae")


def test_a_hub_repository_is_three_files(system, tmp_path, monkeypatch):
    system.save_pretrained(tmp_path / "cache")
    asked = {}

    def download(repository, allow_patterns):
        asked.update(repository=repository, files=allow_patterns)
        return str(tmp_path / "cache")

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    assert same(system, sfumato.load("hub:someone/vae"))
    assert asked["repository"] == "someone/vae"
    assert sorted(asked["files"]) == ["manifest.json", "recipe.json", "weights.safetensors"]
    assert same(system, sfumato.System.from_pretrained("someone/vae"))


def test_a_hub_that_does_not_answer_is_an_error_of_ours(monkeypatch):
    def fail(*_, **__):
        raise OSError("no route to host")

    monkeypatch.setattr("huggingface_hub.snapshot_download", fail)
    with pytest.raises(WeightsError, match="no route to host"):
        sfumato.load("hub:someone/vae")
    with pytest.raises(UsageError, match="owner/name"):
        sfumato.load("hub:someone")


def test_what_is_asked_of_the_hub_reaches_it_and_the_model(system, tmp_path, monkeypatch):
    system.save_pretrained(tmp_path / "cache")
    asked = {}

    def download(repository, **options):
        asked.update(options, repository=repository)
        return str(tmp_path / "cache")

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    found = sfumato.System.from_pretrained(
        "someone/vae", revision="v2", cache_dir=tmp_path, token="t", device="cpu", dtype="float64"
    )
    assert (asked["revision"], asked["cache_dir"], asked["token"]) == ("v2", tmp_path, "t")
    assert {p.dtype for p in found.parameters()} == {torch.float64}
    own = dict(system.named_parameters())
    assert all(torch.equal(p, own[name].double()) for name, p in found.named_parameters())
    with pytest.raises(UsageError, match="dtype is float32"):
        sfumato.load("someone/vae", dtype="int8")
    with pytest.raises(Misfit, match="not a Cascade"):
        sfumato.Cascade.from_pretrained("someone/vae", revision="v2")


@pytest.fixture
def hub(monkeypatch):
    """A hub that keeps what it is given: {name of the file: its text}, and how it was called."""
    seen = {}

    class Api:
        def __init__(self, token=None):
            seen["token"] = token

        def create_repo(self, repository, private, exist_ok):
            seen["made"], seen["private"] = repository, private

        def upload_folder(self, repo_id, folder_path, commit_message):
            seen["files"] = sorted(path.name for path in folder_path.iterdir())
            seen["recipe"] = json.loads((folder_path / "recipe.json").read_text())["name"]
            seen["card"] = (folder_path / "README.md").read_text("utf8")
            return f"hub/{repo_id}"

    monkeypatch.setattr("huggingface_hub.HfApi", Api)
    return seen


def test_push_uploads_what_save_writes_and_a_card(system, hub):
    assert system.push_to_hub("someone/vae") == "hub/someone/vae"
    assert hub["made"] == "someone/vae"
    assert hub["files"] == ["README.md", "manifest.json", "recipe.json", "weights.safetensors"]
    assert hub["recipe"] == "vae"
    with pytest.raises(UsageError, match="owner/name"):
        system.push_to_hub("vae")


def test_the_card_says_recipe_data_licences_scores_and_how_to_load(system, hub, tmp_path):
    run = tmp_path / "run"
    system.classes = ["cat|dog"]
    system.save_pretrained(run / "model")
    (run / "train.json").write_text("{}")
    (run / "data.json").write_text(json.dumps({"name": "/home/me/secret/photos", "images": 7, "fingerprint": "f00d"}))
    scores = {"scores": {"fd-x@7": 12.3456}, "protocol": {"reference": {"set": "/home/me/secret/photos", "count": 7}}}
    (run / "scores.json").write_text(json.dumps(scores))
    sfumato.load(run).push_to_hub("someone/vae", license="apache-2.0", data_license="CC0")
    card = hub["card"]
    head = card.split("---")[1]
    assert "license: apache-2.0" in head
    assert "library_name: sfumato" in head
    for said in (
        "| recipe | vae |",
        "| size | xs |",
        "| set | photos |",
        "| images | 7 |",
        "f00d",
        "| fd-x@7 | 12.35 |",
    ):
        assert said in card, said
    assert "| licence of the pictures | CC0 |" in card
    assert '"count": 7' in card
    assert 'sfumato.load("hub:someone/vae")' in card
    assert "secret" not in card, "a path of this machine"
    system.push_to_hub("someone/vae")  # composed here: it knows no run
    assert "license: unknown" in hub["card"]
    assert "| licence of the pictures | not stated |" in hub["card"]
    (run / "data.json").write_text(json.dumps({"name": "emoji:food"}))
    sfumato.load(run).push_to_hub("someone/vae")
    assert "Twemoji CC-BY-4.0" in hub["card"]


def test_push_is_a_verb(system, hub, tmp_path, capsys):
    system.save_pretrained(tmp_path / "model")
    words = ["push", str(tmp_path / "model"), "someone/vae", "--private", "--token", "t", "--license", "mit", "--json"]
    assert main(words) == 0
    assert json.loads(capsys.readouterr().out)["address"] == "hub/someone/vae"
    assert (hub["private"], hub["token"]) == (True, "t")
    assert "license: mit" in hub["card"]
    assert main(["push", str(tmp_path / "model"), "vae"]) == 2


def test_the_hub_is_a_run_to_the_verbs(system, tmp_path, monkeypatch, capsys):
    system.save_pretrained(tmp_path / "cache")
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *_, **__: str(tmp_path / "cache"))
    assert main(["info", "hub:someone/vae", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["name"], facts["run"], facts["dials"]["size"]) == ("vae", "hub:someone/vae", "xs")
    assert main(["sample", "hub:someone/vae", "-n", "1", "--out", str(tmp_path / "s.png")]) == 0
    assert (tmp_path / "s.png").is_file()


def test_a_mistyped_run_on_the_command_line_is_answered_with_the_nearest(tmp_path, monkeypatch, capsys, no_network):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "emoji").mkdir(parents=True)
    for verb in ("sample", "report", "push", "resume"):
        words = [verb, "runs/emojy", *(["someone/x"] if verb == "push" else [])]
        assert main(words) == 2
        assert "Did you mean 'runs/emoji'?" in capsys.readouterr().err


# ---- in a notebook ----


def test_pictures_show_themselves_and_save_themselves(tmp_path):
    """Black and white, 2×2, side by side: the sheet has them where the eye expects them, as PNG bytes and in a file."""
    images = torch.stack([torch.full((1, 2, 2), -1.0), torch.full((1, 2, 2), 1.0)])
    sheet = sfumato.show(images, columns=2)
    for file in (io.BytesIO(sheet._repr_png_()), sheet.save(tmp_path / "s.png"), sheet.save(tmp_path / "s.jpg")):
        image = Image.open(file).convert("L")
        left, right = image.getpixel((8, 8)), image.getpixel((image.width - 8, 8))
        assert (left < 5, right > 250) == (True, True)
    assert Image.open(tmp_path / "s.jpg").format == "JPEG"
    assert "2 pictures" in repr(sheet)
    assert sfumato.show(images[0]).count == 1
    assert sfumato.show([sheet.image, sheet.image], captions=["a", "b"]).count == 2


@pytest.mark.parametrize(
    ("images", "captions", "answer"),
    [
        (torch.zeros(2, 5, 4, 4), None, r"C 1 or 3, not \(2, 5, 4, 4\)"),
        (torch.zeros(2, 3, 4, 4, dtype=torch.uint8), None, "floats in"),
        (torch.full((1, 3, 4, 4), float("nan")), None, "NaN"),
        (torch.zeros(0, 3, 4, 4), None, "no pictures"),
        (torch.zeros(2, 3, 4, 4), ["one"], "not 1"),
    ],
)
def test_what_cannot_be_shown_says_what_can(images, captions, answer):
    with pytest.raises(Misfit, match=answer):
        sfumato.show(images, captions)
    with pytest.raises(UsageError, match=r"saved as \.png"):
        sfumato.show(torch.zeros(1, 3, 4, 4)).save("s.webp")


def test_a_system_says_what_it_is_in_a_line_and_in_a_table(system):
    count = sum(p.numel() for p in system.parameters())
    assert repr(system) == f"System(vae, size xs: {system.codec.space}, {count / 1000:.1f} k parameters)"
    system.classes = ["<b>", "dog"]
    html = system._repr_html_()
    assert f"{count:,}" in html
    assert "&lt;b&gt;, dog" in html
    assert "parameters of codec" in html
    cascade = sfumato.build("cascade", size="xs")
    assert repr(cascade).startswith("Cascade(cascade, size xs: Grid(")
    assert "parameters of large" in cascade._repr_html_()
    by_hand = sfumato.System(system.codec)
    assert repr(by_hand).startswith("System(AutoEncoder: ")


def test_a_run_shows_its_last_grid(tmp_path):
    (tmp_path / "samples").mkdir()
    run = Run(tmp_path, 20, 0.5, 90.0)
    assert "20 steps in 1.5 minutes, last loss 0.5" in run._repr_html_()
    assert "img" not in run._repr_html_()
    for step in (9, 20):
        (tmp_path / "samples" / f"{step}.png").write_bytes(b"grid %d" % step)
    assert base64.b64encode(b"grid 20").decode() in run._repr_html_()
