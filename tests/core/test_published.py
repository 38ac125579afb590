"""The one reader of pickles refuses everything but the files of its table."""

import hashlib

import pytest
import torch

from sfumato.core import published
from sfumato.core.errors import WeightsError
from sfumato.core.published import PUBLISHED, read_published_pth


@pytest.fixture
def listed(tmp_path, monkeypatch):
    """A small file that the table knows."""
    path = tmp_path / "small.pth"
    torch.save({"a": torch.arange(3.0)}, path)
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    monkeypatch.setattr(published, "PUBLISHED", {"small.pth": sha256})
    return path, sha256


def test_a_listed_file_is_read(listed):
    assert torch.equal(read_published_pth(*listed)["a"], torch.arange(3.0))


def test_one_flipped_bit_is_refused_before_unpickling(listed, monkeypatch):
    path, sha256 = listed
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    monkeypatch.setattr(torch, "load", lambda *a, **k: pytest.fail("unpickled before the hash was checked"))
    with pytest.raises(WeightsError, match="not the published file"):
        read_published_pth(path, sha256)


def test_a_hash_outside_the_table_is_refused(tmp_path, monkeypatch):
    path = tmp_path / "mine.pth"
    torch.save({"a": torch.zeros(1)}, path)
    monkeypatch.setattr(torch, "load", lambda *a, **k: pytest.fail("unpickled a file that nobody published"))
    with pytest.raises(WeightsError, match="will not be unpickled"):
        read_published_pth(path, hashlib.sha256(path.read_bytes()).hexdigest())


def test_missing_folder_and_giant_are_named(listed, tmp_path, monkeypatch):
    path, sha256 = listed
    with pytest.raises(WeightsError, match="no weights at"):
        read_published_pth(tmp_path / "absent.pth", sha256)
    with pytest.raises(WeightsError, match="no weights at"):
        read_published_pth(tmp_path, sha256)
    monkeypatch.setattr(published, "LARGEST", 8)
    with pytest.raises(WeightsError, match="so large"):
        read_published_pth(path, sha256)


def test_what_is_not_a_table_of_tensors_is_refused(tmp_path, monkeypatch):
    path = tmp_path / "list.pth"
    torch.save([1, 2], path)
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    monkeypatch.setattr(published, "PUBLISHED", {"list.pth": sha256})
    with pytest.raises(WeightsError, match="table of tensors"):
        read_published_pth(path, sha256)


def test_the_table_holds_hashes():
    assert all(len(sha256) == 64 and int(sha256, 16) for sha256 in PUBLISHED.values())
