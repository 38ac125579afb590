"""`import sfumato`: the few names at the door, and the ways of a model to disk and to the hub."""

import json
import subprocess
import sys

import pytest
import torch

import sfumato
from sfumato.core.errors import Misfit, UsageError, WeightsError


@pytest.fixture
def system():
    torch.manual_seed(0)
    return sfumato.build("vae", size="xs")


def same(a, b):
    a, b = a.state_dict(), b.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_the_face_has_the_names_of_the_interface():
    for name in ("build", "train", "load", "System", "Cascade"):
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


def test_a_misspelt_run_never_reaches_the_network(tmp_path, monkeypatch):
    """`runs/ldn` has the form of a repository; the folder beside it shows that a run was meant."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "ldm").mkdir(parents=True)
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *_, **__: pytest.fail("it asked the hub"))
    with pytest.raises(UsageError, match=r"Did you mean 'runs/ldm'"):
        sfumato.load("runs/ldn")


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


def test_push_uploads_what_save_writes(system, monkeypatch):
    seen = {}

    class Api:
        def __init__(self, token=None):
            pass

        def create_repo(self, repository, private, exist_ok):
            seen["made"] = repository

        def upload_folder(self, repo_id, folder_path, commit_message):
            seen["files"] = sorted(path.name for path in folder_path.iterdir())
            seen["recipe"] = json.loads((folder_path / "recipe.json").read_text())["name"]
            return f"hub/{repo_id}"

    monkeypatch.setattr("huggingface_hub.HfApi", Api)
    assert system.push_to_hub("someone/vae") == "hub/someone/vae"
    assert seen == {
        "made": "someone/vae",
        "files": ["manifest.json", "recipe.json", "weights.safetensors"],
        "recipe": "vae",
    }
    with pytest.raises(UsageError, match="owner/name"):
        system.push_to_hub("vae")
