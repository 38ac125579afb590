"""Latents on disk: the bits that encoding gives, for the right codec and data only, whole or not at all."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from sfumato.core.errors import DataError, DiskError
from sfumato.data import Batches, once, open_data
from sfumato.data.latents import cached_latents

MATRIX = torch.randn(12, 64, generator=torch.Generator().manual_seed(0))


def encode(x):
    return (x.flatten(1) @ MATRIX.T).reshape(len(x), 3, 2, 2)


class Counted:
    def __init__(self):
        self.calls = 0

    def __call__(self, x):
        self.calls += 1
        return encode(x)


@pytest.fixture
def source():
    return open_data("digits", side=8, channels=1).subset(range(40))


def test_latents_equal_encoding_bitwise_and_are_kept(tmp_path, source):
    counted = Counted()
    first = cached_latents(counted, source, tmp_path, "codec-a", batch=16)
    assert counted.calls == 3
    again = cached_latents(counted, source, tmp_path, "codec-a", batch=16)
    assert counted.calls == 3
    fresh = torch.cat([encode(part["image"]) for part in once(source, 16)])
    for latents in (first, again):
        assert torch.equal(latents.batch(range(40))["latent"], fresh)
        assert latents.shape == (3, 2, 2)
    assert first.latent(7).dtype == torch.float32


def test_tokens_stay_integers(tmp_path, source):
    tokens = lambda x: (x.flatten(1)[:, ::4] > 0).long() * 300
    latents = cached_latents(tokens, source, tmp_path, "k")
    assert latents.batch([0])["latent"].dtype == torch.int64
    assert torch.equal(latents.batch(range(40))["latent"], tokens(source.batch(range(40))["image"]))


def test_batches_have_latents_for_images(tmp_path, source):
    latents = cached_latents(encode, source, tmp_path, "k", batch=40)
    a, b = Batches(latents, 8, seed=3).at(6), Batches(source, 8, seed=3).at(6)
    assert a.keys() == (b.keys() - {"image"}) | {"latent"}
    assert torch.equal(a["index"], b["index"])
    assert torch.equal(a["label"], b["label"])
    part = latents.subset([5, 3])
    assert torch.equal(part.batch([1])["latent"], latents.batch([3])["latent"])
    assert part.label(0) == source.label(5)


def test_captions_pass_through(tmp_path):
    source = open_data("emoji:food").subset(range(4))
    latents = cached_latents(lambda x: x.mean((2, 3)), source, tmp_path, "k")
    assert list(latents.captions()) == list(source.captions())
    assert latents.batch([2])["text"] == [source.text(2)]


def test_another_codec_or_other_data_is_encoded_anew(tmp_path, source):
    counted = Counted()
    cached_latents(counted, source, tmp_path, "a", batch=64)
    cached_latents(counted, source, tmp_path, "b", batch=64)
    cached_latents(counted, source.subset(range(39)), tmp_path, "a", batch=64)
    assert counted.calls == 3


def truncate(folder):
    file = folder / "latents.npy"
    file.write_bytes(file.read_bytes()[:-5])


def flip(folder):
    data = bytearray((folder / "latents.npy").read_bytes())
    data[-100] ^= 1
    (folder / "latents.npy").write_bytes(data)


def lie(folder):
    about = json.loads((folder / "about.json").read_text())
    (folder / "about.json").write_text(json.dumps({**about, "key": "other"}))


DAMAGE = {
    "truncated": truncate,
    "one bit": flip,
    "wrong key": lie,
    "no json": lambda folder: (folder / "about.json").write_text("{"),
    "a list": lambda folder: (folder / "about.json").write_text("[]"),
    "no latents": lambda folder: (folder / "latents.npy").unlink(),
    "an empty folder": lambda folder: (shutil.rmtree(folder), folder.mkdir()),
    "a file in its place": lambda folder: (shutil.rmtree(folder), folder.write_bytes(b"")),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE.keys())
def test_a_damaged_cache_is_made_anew(tmp_path, source, damage):
    counted = Counted()
    whole = cached_latents(counted, source, tmp_path, "k", batch=64).batch(range(40))["latent"]
    (folder,) = tmp_path.iterdir()
    damage(folder)
    again = cached_latents(counted, source, tmp_path, "k", batch=64)
    assert counted.calls == 2
    assert torch.equal(again.batch(range(40))["latent"], whole)
    assert [p.name for p in tmp_path.iterdir()] == [folder.name]  # no litter stays


def test_a_pickle_in_place_of_the_latents_is_not_opened(tmp_path, source):
    cached_latents(encode, source, tmp_path, "k")
    (folder,) = tmp_path.iterdir()
    np.save(folder / "latents.npy", np.array([{"a": 1}] * 40, dtype=object), allow_pickle=True)
    latents = cached_latents(encode, source, tmp_path, "k")
    assert latents.batch([0])["latent"].dtype == torch.float32


KILLED = """
import os, sys
from pathlib import Path
from sfumato.data import open_data, latents
import sfumato.data.latents as module
point, folder = int(sys.argv[1]), sys.argv[2]
seen = 0
def dying(name):
    real = getattr(os, name)
    def call(*a, **k):
        global seen
        seen += 1
        if seen == point:
            os._exit(9)
        return real(*a, **k)
    return call
os.rename, os.fsync = dying("rename"), dying("fsync")
source = open_data("digits", side=8, channels=1).subset(range(40))
module.cached_latents(lambda x: x.mean(3), source, folder, "k")
"""


@pytest.mark.parametrize("point", [1, 3, 4])
def test_a_death_while_writing_leaves_nothing_that_is_believed(tmp_path, source, point):
    """Killed at the first flush, the last before the rename, and at the rename itself."""
    script = tmp_path / "killed.py"
    script.write_text(KILLED)
    folder = tmp_path / "latents"
    done = subprocess.run(
        [sys.executable, str(script), str(point), str(folder)], check=False, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == 9
    assert [p for p in folder.iterdir() if not p.name.startswith(".making-")] == []
    latents = cached_latents(lambda x: x.mean(3), source, folder, "k")
    assert torch.equal(latents.batch(range(40))["latent"], source.batch(range(40))["image"].mean(3))


def test_a_refusing_disk_is_our_error(tmp_path, source, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("sfumato.data.latents.os.fsync", full)
    with pytest.raises(DiskError, match="bytes free"):
        cached_latents(encode, source, tmp_path, "k")
    assert list(Path(tmp_path).iterdir()) == []


def test_an_encoder_that_gives_something_else_is_refused(tmp_path, source):
    with pytest.raises(DataError, match="bool"):
        cached_latents(lambda x: x > 0, source, tmp_path, "k")
    with pytest.raises(DataError, match="latents for 40 pictures"):
        cached_latents(lambda x: encode(x)[:3], source, tmp_path, "k")
