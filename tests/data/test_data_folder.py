"""Folders as people have them: what is found, what is skipped, why, and when a set is refused."""

from __future__ import annotations

import csv
import io
import json
import os
import unicodedata

import numpy as np
import pytest
import torch
from kit import skipped
from PIL import Image

from sfumato.core.errors import DataError, UnknownName, UsageError
from sfumato.data import Batches, open_data
from sfumato.data.captions import LONGEST

RNG = np.random.default_rng(3)


def put(path, color=None, size=(20, 16), kind=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = RNG.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8) if color is None else None
    image = Image.new("RGB", size, color) if pixels is None else Image.fromarray(pixels)
    image.save(path, kind)
    return path


def many(folder, n=20, **options):
    for i in range(n):
        put(folder / f"{i:02}.png", **options)
    return folder


def test_images_alone(tmp_path):
    source = open_data(many(tmp_path), side=16)
    assert (len(source), source.labels, source.has_text, source.side, source.channels) == (20, None, False, 16, 3)
    assert source.image(0).dtype == torch.uint8
    assert source.image(0).shape == (3, 16, 16)
    assert json.loads(json.dumps(source.report))["images"] == 20
    for ask in (source.label, source.text):
        with pytest.raises(DataError, match=r"Put"):
            ask(0)


def test_pixels_are_copied_where_no_resampling_is_needed(tmp_path):
    put(tmp_path / "a.png", size=(20, 16))
    expected = np.asarray(Image.open(tmp_path / "a.png"))[:, 2:18].transpose(2, 0, 1)
    assert (open_data(tmp_path, side=16).image(0).numpy() == expected).all()


def test_shrinking_is_close_to_the_area_mean_and_centred(tmp_path):
    """A 128 × 64 picture, whose centre square is 64 flat blocks of 8 px: in each block's middle Lanczos keeps the level
    within 24 (its ringing at a step is below 10 % of 255), and the wings left and right leave no trace."""
    blocks = RNG.integers(0, 256, (8, 8, 3), dtype=np.uint8)
    centre = np.kron(blocks, np.ones((8, 8, 1))).astype(np.uint8)
    wings = np.zeros((64, 128, 3), np.uint8)
    wings[:, 32:96] = centre
    Image.fromarray(wings).save(tmp_path / "a.png")
    got = open_data(tmp_path, side=32).image(0).numpy().transpose(1, 2, 0)
    level = got.reshape(8, 4, 8, 4, 3)[:, 1:3, :, 1:3].mean((1, 3))
    assert abs(level - blocks).max() <= 24


@pytest.mark.parametrize("size", [(1, 1), (1, 300), (300, 1), (7, 5), (1000, 3)])
def test_any_size_becomes_square(tmp_path, size):
    put(tmp_path / "a.png", (10, 20, 30), size)
    assert (open_data(tmp_path, side=8).image(0).permute(1, 2, 0) == torch.tensor([10, 20, 30])).all()


def test_the_side_that_a_set_asks_for(tmp_path):
    for i, size in enumerate([(28, 40), (60, 28), (28, 28)]):
        put(tmp_path / "same" / f"{i}.png", size=size)
    for i, size in enumerate([(20, 40), (60, 30), (300, 500)]):
        put(tmp_path / "mixed" / f"{i}.png", size=size)
    put(tmp_path / "large" / "0.png", size=(600, 700))
    assert [open_data(tmp_path / name).side for name in ("same", "mixed", "large")] == [28, 24, 256]


def test_class_folders(tmp_path):
    for name in ("10", "9", "cat"):
        many(tmp_path / name, 3)
    source = open_data(tmp_path, side=8)
    assert source.labels == ["9", "10", "cat"]
    assert source.report["labels"] == {"9": 3, "10": 3, "cat": 3}
    assert [source.label(i) for i in range(9)] == [1, 1, 1, 0, 0, 0, 2, 2, 2]  # in the order of paths
    assert source.batch([0, 8])["label"].tolist() == [1, 2]


def test_a_shared_folder_is_looked_through_and_one_folder_is_no_class(tmp_path):
    many(tmp_path / "outer" / "photos" / "cat", 2)
    assert open_data(tmp_path, side=8).labels is None
    many(tmp_path / "outer" / "photos" / "dog", 2)
    assert open_data(tmp_path, side=8).labels == ["cat", "dog"]


def test_pictures_outside_class_folders_take_the_labels_away_with_a_warning(tmp_path):
    many(tmp_path / "cat", 2), many(tmp_path / "dog", 2), many(tmp_path, 1)
    source = open_data(tmp_path, side=8)
    assert (len(source), source.labels) == (5, None)
    assert "no label" in source.report["warnings"][0]


def test_parts(tmp_path):
    for part, n in (("train", 4), ("val", 2)):
        for name in ("a", "b"):
            many(tmp_path / part / name, n)
    assert [len(open_data(tmp_path, side=8, split=s)) for s in ("train", "valid", "all")] == [8, 4, 12]
    assert open_data(tmp_path, side=8).labels == ["a", "b"]
    with pytest.raises(UnknownName, match="test"):
        open_data(tmp_path, side=8, split="test")
    with pytest.raises(UnknownName, match="train/"):
        open_data(tmp_path / "train", side=8, split="test")


def test_captions_beside_pictures(tmp_path):
    """UTF-8, UTF-16, BOM; Chinese, joined emoji; NFC; control characters; over-long; missing; other bytes."""
    family, decomposed = "👩‍👩‍👧 家庭", unicodedata.normalize("NFD", "Bär café")
    contents = {
        "00": "一只红色的苹果".encode(),
        "01": family.encode("utf-8-sig"),
        "02": decomposed.encode("utf-16"),
        "03": b"\xfe\xff" + "wide".encode("utf-16-be"),
        "04": b"two\r\n lines\x07 \x1b[31m\xe2\x80\xaeend",
        "05": b"word " * 1000,
        "06": b"",
        "07": b"caf\xe9 latin-1",
        "08": b"\0z\0e\0r\0o",
    }
    many(tmp_path, 40)
    for name, data in contents.items():
        (tmp_path / f"{name}.txt").write_bytes(data)
    for i in range(10, 40):
        (tmp_path / f"{i}.txt").write_text(f"caption {i}")
    source = open_data(tmp_path, side=8, allow_bad=0.05)
    texts = [source.text(i) for i in range(5)]
    assert texts == ["一只红色的苹果", family, "Bär café", "wide", "two lines [31mend"]
    assert len(source.text(5)) <= LONGEST
    assert source.text(5).startswith("word word")
    assert source.text(6) == ""
    assert skipped(source) == {name: "caption is not UTF-8 text" for name in ("07.png", "08.png")}
    assert source.report["captions"] == 36
    assert any("no caption" in w for w in source.report["warnings"])
    assert any("cut" in w for w in source.report["warnings"])
    assert list(source.captions())[:5] == texts
    assert source.batch([0])["text"] == texts[:1]


def test_a_caption_that_is_a_link_out_or_a_fifo_is_not_read(tmp_path):
    folder = many(tmp_path / "set", 60)
    (tmp_path / "secret").write_text("secret words")
    (folder / "00.txt").symlink_to(tmp_path / "secret")
    os.mkfifo(folder / "01.txt")
    source = open_data(folder, side=8)
    assert skipped(source) == {"00.txt": "link out of the folder", "01.txt": "not a regular file"}
    assert "secret words" not in list(source.captions())


def test_one_junk_file_among_twenty_is_skipped_and_named(tmp_path):
    many(tmp_path, 19)
    (tmp_path / "junk.jpg").write_bytes(os.urandom(999))
    source = open_data(tmp_path, side=8)
    assert len(source) == 19
    assert skipped(source) == {"junk.jpg": "not an image"}
    with pytest.raises(DataError, match=r"1 of 20 files.*1 not an image.*junk\.jpg"):
        open_data(tmp_path, side=8, allow_bad=0.04)


def test_every_kind_of_bad_file_is_counted_by_its_reason(tmp_path):
    folder = many(tmp_path / "set", 12)
    (folder / "text.jpg").write_text("hello")
    (folder / "empty.png").write_bytes(b"")
    whole = put(tmp_path / "whole.jpg", size=(90, 90)).read_bytes()
    (folder / "half.jpg").write_bytes(whole[: len(whole) // 2])
    flipped = bytearray(put(tmp_path / "whole.png").read_bytes())
    flipped[60] ^= 4
    (folder / "flipped.png").write_bytes(flipped)
    (folder / "photo.heic").write_bytes(b"\0\0\0\x18ftypheic")
    (folder / "link.png").symlink_to(tmp_path / "whole.png")
    (folder / "gone.png").symlink_to(folder / "nothing")
    os.mkfifo(folder / "pipe.png")
    (folder / "loop").symlink_to(folder)
    with pytest.raises(DataError) as caught:
        open_data(folder, side=8)
    assert caught.value.exit_code == 3
    assert "9 of 21 files" in str(caught.value)
    source = open_data(folder, side=8, allow_bad=0.5)
    assert skipped(source) == {
        "text.jpg": "not an image",
        "empty.png": "empty",
        "half.jpg": "truncated",
        "flipped.png": "damaged",
        "photo.heic": "HEIC: pip install 'sfumato[heif]'",
        "link.png": "link out of the folder",
        "gone.png": "broken link",
        "pipe.png": "not a regular file",
        "loop": "link to a folder",
    }


def test_names_do_not_decide_the_format(tmp_path):
    put(tmp_path / "jpeg.png", kind="JPEG"), put(tmp_path / "png.JPG", kind="PNG"), put(tmp_path / "bare", kind="PNG")
    assert len(open_data(tmp_path, side=8, allow_bad=0)) == 3


def test_documents_and_litter_are_not_bad_pictures(tmp_path):
    many(tmp_path, 2)
    for name in ("README.md", "LICENSE", "Thumbs.db", ".DS_Store", ".hidden.png"):
        (tmp_path / name).write_text("text")
    source = open_data(tmp_path, side=8, allow_bad=0)
    assert skipped(source) == {"README.md": "not a picture", "LICENSE": "not a picture"}


def test_nothing_usable(tmp_path):
    with pytest.raises(DataError, match="found 0 files, 0 usable"):
        open_data(tmp_path)
    for i in range(3):
        (tmp_path / f"{i}.png").write_bytes(b"")
    (tmp_path / "notes.md").write_text("x")
    with pytest.raises(DataError, match=r"found 4 files, 0 usable: 3 empty, 1 not a picture"):
        open_data(tmp_path, allow_bad=1.0)


def test_metadata_jsonl_with_everything_wrong_in_it(tmp_path):
    many(tmp_path, 60)
    (tmp_path.parent / "secret.png").write_bytes((tmp_path / "00.png").read_bytes())
    lines = [json.dumps({"file_name": f"{i:02}.png", "text": f"number {i}", "label": i % 3}) for i in range(58)]
    lines.insert(1, json.dumps({"file_name": "../secret.png", "text": "out"}))
    lines.insert(2, json.dumps({"file_name": "nowhere.png", "text": "gone"}))
    lines += ["", "[1, 2]", '{"file_name": "58.png", "te']
    (tmp_path / "metadata.jsonl").write_bytes(b"\xef\xbb\xbf" + "\n".join(lines).encode())
    source = open_data(tmp_path, side=8, allow_bad=0.1)
    assert len(source) == 58
    assert skipped(source) == {
        "metadata.jsonl:2": "path leaves the folder",
        "metadata.jsonl:3": "no such picture",
        "metadata.jsonl:62": "line is no JSON object",
        "metadata.jsonl:63": "line is not JSON",
    }
    assert source.labels == ["0", "1", "2"]
    assert [(source.text(i), source.label(i)) for i in (0, 57)] == [("number 0", 0), ("number 57", 0)]
    assert any("2 pictures are named in no metadata" in w for w in source.report["warnings"])


@pytest.mark.parametrize(
    "path", ["../a.png", "/etc/passwd", "x/../../a.png", "C:\\a.png", "..\\a.png", "", ".", "a\0b.png"]
)
def test_a_path_that_leaves_the_folder_is_refused(tmp_path, path):
    put(tmp_path / "a.png"), put(tmp_path / "set" / "a.png")
    rows = [{"file_name": "a.png"}, {"file_name": path}]
    (tmp_path / "set" / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    source = open_data(tmp_path / "set", side=8, allow_bad=0.5)
    assert skipped(source) == {"metadata.jsonl:2": "path leaves the folder"}


def test_metadata_csv_and_several_captions(tmp_path):
    many(tmp_path, 3)
    file = io.StringIO()
    table = csv.writer(file)
    table.writerows(
        [
            ["file_name", "text"],
            ["00.png", "one, with a comma"],
            ["00.png", "another"],
            ["01.png", "两"],
            ["02.png", ""],
        ]
    )
    (tmp_path / "metadata.csv").write_bytes(file.getvalue().encode("utf-16"))
    source = open_data(tmp_path, side=8)
    assert [source.text(0, choice) for choice in range(3)] == ["one, with a comma", "another", "one, with a comma"]
    assert [source.text(1), source.text(2)] == ["两", ""]
    (tmp_path / "metadata.csv").write_text("name,text\na.png,x\n")
    with pytest.raises(DataError, match="no column file_name"):
        open_data(tmp_path, side=8)


def test_metadata_parquet(tmp_path):
    pa = pytest.importorskip("pyarrow", reason="the extra `data`")
    import pyarrow.parquet as pq

    many(tmp_path, 4)
    rows = {"file_name": [f"{i:02}.png" for i in range(4)], "text": [["a", "b"]] * 4, "label": [1.0, 2.0, 1.0, 2.0]}
    pq.write_table(pa.table(rows), tmp_path / "metadata.parquet")
    source = open_data(tmp_path, side=8)
    assert source.labels == ["1", "2"]
    assert [source.text(0, 0), source.text(0, 1)] == ["a", "b"]
    (tmp_path / "metadata.parquet").write_bytes((tmp_path / "metadata.parquet").read_bytes()[:50])
    with pytest.raises(DataError, match="no Parquet file"):
        open_data(tmp_path, side=8)


def test_two_labels_for_one_picture_are_refused(tmp_path):
    many(tmp_path, 3)
    rows = [{"file_name": f"{i:02}.png", "label": label} for i, label in ((0, "a"), (0, "b"), (1, "a"), (2, "b"))]
    (tmp_path / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert skipped(open_data(tmp_path, side=8, allow_bad=0.4)) == {"00.png": "two labels"}


def test_three_images_with_batch_sixteen(tmp_path):
    batches = Batches(open_data(many(tmp_path, 3), side=8), 16, seed=0)
    assert batches.at(0)["image"].shape == (16, 3, 8, 8)
    assert set(batches.indices(0)) == {0, 1, 2}


def test_the_fingerprint_follows_content_captions_labels_and_settings(tmp_path):
    folder = many(tmp_path / "set", 3)
    prints = {open_data(folder, side=8).fingerprint}
    assert open_data(folder, side=8).fingerprint in prints
    os.rename(folder, tmp_path / "moved")
    folder = tmp_path / "moved"
    assert open_data(folder, side=8).fingerprint in prints  # where it lies does not matter
    prints |= {open_data(folder, side=9).fingerprint, open_data(folder, side=8, channels=1).fingerprint}
    prints.add(open_data(folder, side=8, background="black").fingerprint)
    prints.add(open_data(folder, side=8).subset([0, 1]).fingerprint)
    (folder / "00.txt").write_text("words")
    prints.add(open_data(folder, side=8).fingerprint)
    put(folder / "01.png")
    prints.add(open_data(folder, side=8).fingerprint)
    assert len(prints) == 7
    assert all(len(p) == 64 for p in prints)


def test_a_set_beyond_the_memory_budget_gives_the_same_batches(tmp_path, monkeypatch):
    many(tmp_path, 6)
    inside = open_data(tmp_path, side=8)
    monkeypatch.setattr("sfumato.data.source.Store.__init__.__defaults__", (0,))
    outside = open_data(tmp_path, side=8)
    assert outside._store._pixels is None
    assert outside.fingerprint == inside.fingerprint
    assert torch.equal(outside.batch(range(6))["image"], inside.batch(range(6))["image"])


def test_strange_names_stay_printable_and_countable(tmp_path):
    for name in ("a\nb.png", "\x1b[31m.png", "日本.png", "x" * 200 + ".png"):
        put(tmp_path / name)
    (tmp_path / "bad\n.png").write_bytes(b"")
    source = open_data(tmp_path, side=8, allow_bad=0.5)
    assert len(source) == 4
    assert skipped(source) == {"bad\\n.png": "empty"}


def test_subsets_keep_pictures_and_words_together(tmp_path):
    many(tmp_path, 5)
    for i in range(5):
        (tmp_path / f"{i:02}.txt").write_text(str(i))
    source = open_data(tmp_path, side=8)
    part = source.subset([4, 2])
    assert list(part.captions()) == ["4", "2"]
    assert torch.equal(part.image(0), source.image(4))
    assert part.batch([1])["index"].tolist() == [1]
    assert part.report["images"] == 2
    with pytest.raises(IndexError):
        source.subset([5])
    with pytest.raises(DataError):
        source.subset([])


def test_wrong_names_are_answered_with_the_nearest(tmp_path):
    many(tmp_path / "photos", 1)
    for wrong, near in (("emojis", "'emoji'"), ("scene", "'scenes'"), (str(tmp_path / "photo"), "photos")):
        with pytest.raises(UnknownName, match=near):
            open_data(wrong)


@pytest.mark.parametrize(
    "options", [{"channels": 4}, {"side": 0}, {"side": 5000}, {"allow_bad": 2}, {"background": "bleu"}]
)
def test_wrong_settings_are_refused(options):
    with pytest.raises(UsageError):
        open_data("digits", **options)
