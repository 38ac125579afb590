"""The `datasets` library: its directories, and the hub by way of a stand-in for the download."""

from __future__ import annotations

import io
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from sfumato.core.errors import DataError, UnknownName, UsageError
from sfumato.data import open_data

datasets = pytest.importorskip("datasets", reason="the extra `data`")
RNG = np.random.default_rng(9)
PIXELS = RNG.integers(0, 256, (6, 10, 10, 3), dtype=np.uint8)


def png(pixels) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def table(n=6, broken=()):
    cells = [{"bytes": b"junk" if i in broken else png(PIXELS[i]), "path": None} for i in range(n)]
    features = datasets.Features(
        {
            "image": datasets.Image(),
            "label": datasets.ClassLabel(names=["cat", "dog"]),
            "caption": datasets.Value("string"),
        }
    )
    columns = {"image": cells, "label": [i % 2 for i in range(n)], "caption": [f"caption {i}" for i in range(n)]}
    return datasets.Dataset.from_dict(columns, features=features)


def test_a_saved_table(tmp_path):
    table().save_to_disk(tmp_path / "d")
    source = open_data(tmp_path / "d", side=10)
    assert (len(source), source.labels) == (6, ["cat", "dog"])
    assert (source.image(3).numpy() == PIXELS[3].transpose(2, 0, 1)).all()
    assert source.batch([3])["label"].tolist() == [1]
    assert source.text(3) == "caption 3"
    with pytest.raises(UnknownName):
        open_data(tmp_path / "d", split="test")


def test_saved_parts(tmp_path):
    datasets.DatasetDict({"train": table(6), "test": table(2)}).save_to_disk(tmp_path / "d")
    assert [len(open_data(tmp_path / "d", split=s)) for s in ("train", "test", "all")] == [6, 2, 8]
    with pytest.raises(UnknownName, match="'test'"):
        open_data(tmp_path / "d", split="tests")


def test_bad_rows_are_counted(tmp_path):
    table(broken=[2]).save_to_disk(tmp_path / "d")
    source = open_data(tmp_path / "d", side=8, allow_bad=0.2)
    assert source.report["skipped"] == [{"file": "image[2]", "reason": "not an image"}]
    assert source.text(2) == "caption 3"
    with pytest.raises(DataError, match="1 of 6"):
        open_data(tmp_path / "d", side=8)


def test_a_table_without_pictures_and_a_damaged_one(tmp_path):
    datasets.Dataset.from_dict({"x": [1]}).save_to_disk(tmp_path / "d")
    with pytest.raises(DataError, match="no column of pictures among x"):
        open_data(tmp_path / "d")
    for file in (tmp_path / "d").glob("*.arrow"):
        file.write_bytes(b"junk")
    with pytest.raises(DataError, match="no readable"):
        open_data(tmp_path / "d")


def test_the_hub(monkeypatch):
    """The library's own loader is replaced; what is asked of it, and what becomes of its answer, is ours."""
    asked = []

    def load(name, config=None, revision=None):
        asked.append((name, config, revision))
        return datasets.DatasetDict({"train": table()})

    monkeypatch.setattr(datasets, "load_dataset", load)
    source = open_data("hub:owner/name", side=10)
    assert torch.equal(source.image(1), torch.from_numpy(PIXELS[1].transpose(2, 0, 1).copy()))
    for more in (":small", "@abc", "@abc:small"):
        open_data(f"hub:owner/name{more}", side=10)
    assert asked == [("owner/name", *rest) for rest in ((None, None), ("small", None), (None, "abc"), ("small", "abc"))]


def test_a_hub_that_does_not_answer(monkeypatch):
    def offline(*_, **__):
        raise ConnectionError("no route")

    monkeypatch.setattr(datasets, "load_dataset", offline)
    with pytest.raises(DataError, match="no route"):
        open_data("hub:owner/name")
    for wrong in ("hub:name", "hub:", "hub:a/b/c"):
        with pytest.raises(UsageError, match="owner/name"):
            open_data(wrong)


def test_without_the_library_the_extra_is_named(monkeypatch, tmp_path):
    table().save_to_disk(tmp_path / "d")
    monkeypatch.setitem(sys.modules, "datasets", None)
    for data in ("hub:owner/name", tmp_path / "d"):
        with pytest.raises(DataError, match=r"sfumato\[data\]"):
            open_data(data)


def test_pictures_as_files_and_unlabelled_rows(tmp_path, monkeypatch):
    """A row may name a file in place of bytes: it is read by our rules (no URL, no FIFO), and −1 is no label."""
    (tmp_path / "a.png").write_bytes(png(PIXELS[0]))
    paths = [str(tmp_path / "a.png"), str(tmp_path / "gone.png"), "https://example.org/a.png"]
    features = datasets.Features({"img": datasets.Image(), "label": datasets.ClassLabel(names=["x"])})
    columns = {"img": [{"bytes": None, "path": path} for path in paths], "label": [-1, 0, 0]}
    rows = datasets.Dataset.from_dict(columns, features=features)
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: rows)
    source = open_data("hub:a/b", side=10, allow_bad=0.7)
    assert (source.image(0).numpy() == PIXELS[0].transpose(2, 0, 1)).all()
    assert [entry["reason"] for entry in source.report["skipped"]] == ["cannot be opened"] * 2
    assert source.labels is None
    assert "no label" in source.report["warnings"][0]
