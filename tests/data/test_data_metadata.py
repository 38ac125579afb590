"""Metadata, maps and doubts, beyond the habits: each table tells of its pictures or is said to tell nothing."""

import numpy as np
import pytest
from kit import picture, png, put, skipped, warned
from PIL import Image

from sfumato.core.errors import DataError
from sfumato.data import open_data


def test_a_table_on_top_tells_of_every_part(tmp_path):
    """Rows of the part that is not asked for are no missing pictures."""
    for i in range(4):
        put(tmp_path / "train" / f"{i}.png", png(i))
        put(tmp_path / "test" / f"{i}.png", png(i + 9))
    lines = [f"{part}/{i}.png,{part} {i}" for part in ("train", "test") for i in range(4)]
    put(tmp_path / "metadata.csv", "\n".join(["file_name,text", *lines]))
    for split in ("train", "test"):
        source = open_data(tmp_path, split=split)
        assert sorted(source.captions()) == [f"{split} {i}" for i in range(4)]
        assert not skipped(source)
    put(tmp_path / "metadata.csv", "file_name,text\ntrain/0.png,a\ntrain/9.png,b")
    with pytest.raises(DataError, match="no such picture"):
        open_data(tmp_path)


def test_columns_are_called_in_any_case(tmp_path):
    put(tmp_path / "a.png", png())
    for name, text in (
        ("metadata.csv", "Filename;Text\na.png;ä"),
        ("metadata.json", '[{"File_Name": "a.png", "Text": "ä"}]'),
    ):
        put(tmp_path / name, text)
        assert list(open_data(tmp_path).captions()) == ["ä"]
        (tmp_path / name).unlink()


def test_metadata_without_words_is_said(tmp_path):
    put(tmp_path / "table" / "a.png", png())
    put(tmp_path / "table" / "metadata.csv", "file_name,beschreibung\na.png,rot")
    put(tmp_path / "beside" / "a.png", png())
    put(tmp_path / "beside" / "a.json", '{"description": "red"}')
    assert warned(open_data(tmp_path / "table"), "metadata.csv", "neither captions")
    assert warned(open_data(tmp_path / "beside"), "1 .json", "neither captions")
    put(tmp_path / "beside" / "a.json", '{"Caption": "red"}')
    assert not warned(open_data(tmp_path / "beside"), "neither captions")


def test_what_an_album_says_of_itself_is_no_bad_metadata(tmp_path):
    for i in range(3):
        put(tmp_path / f"{i}.jpg", png(i))
        put(tmp_path / f"{i}.jpg.supplemental-metadata.json", '{"title": "x"}')
    put(tmp_path / "metadata.json", '{"title": "Trip", "access": "protected", "date": {"timestamp": "1"}}')
    source = open_data(tmp_path)
    assert len(source) == 3
    assert not source.has_text
    assert warned(source, "metadata.json", "name no picture")
    assert not warned(source, "supplemental")


@pytest.mark.parametrize(
    ("picture_", "map_"),
    [
        ("train_images/0.png", "train_masks/0.png"),
        ("0.png", "0-mask.png"),
        ("JPEGImages/0.png", "SegmentationClass/0.png"),
    ],
)
def test_maps_by_other_names(tmp_path, picture_, map_):
    put(tmp_path / picture_, png(0))
    put(tmp_path / map_, png(1))
    source = open_data(tmp_path)
    assert len(source) == 1
    assert skipped(source) == {map_: "belongs to another picture"}


def test_classes_that_are_called_masks_are_classes(tmp_path):
    for folder in ("with_mask", "without_mask"):
        put(tmp_path / folder / "1.png", png(len(folder)))
    assert open_data(tmp_path).labels == ["with_mask", "without_mask"]


@pytest.mark.parametrize(("bits", "factor"), [(10, 64), (12, 16), (14, 4)])
def test_few_bits_in_a_file_of_sixteen_are_counted(tmp_path, bits, factor):
    values = np.random.default_rng(0).integers(0, 2**bits, (16, 16)).astype(np.uint16)
    Image.fromarray(values).save(tmp_path / "a.png")
    assert warned(open_data(tmp_path), f"{bits} bits", f"by {factor} ")


def test_a_set_that_is_nearly_black_is_said(tmp_path):
    Image.fromarray(np.asarray(picture()) // 16).save(tmp_path / "a.png")
    assert warned(open_data(tmp_path), "nearly black", "15 of 255")
