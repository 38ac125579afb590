"""Folders, archives and metadata as people have them: each is read by its rule, or it is said what was left aside."""

import io
import json
import os
import subprocess
import tarfile
import unicodedata
import zipfile

import numpy as np
import pytest
from kit import picture, png, put, skipped, warned
from PIL import Image, features

from sfumato.core.errors import DataError, UnknownName
from sfumato.data import open_data
from sfumato.data.told import told

# ---- parts ----


@pytest.mark.parametrize(
    ("train", "test", "split"),
    [("Train", "Test", "test"), ("training", "testing", "test"), ("TRAIN", "dev", "valid"), ("trn", "Eval", "valid")],
)
def test_parts_are_called_as_people_call_them(tmp_path, train, test, split):
    for i in range(6):
        put(tmp_path / train / f"{i}.png", png(i))
    for i in range(3):
        put(tmp_path / test / f"{i}.png", png(10 + i))
    source = open_data(tmp_path)
    assert (len(source), source.labels, source.report["parts"]) == (6, None, {split: 3})
    assert len(open_data(tmp_path, split=split)) == 3
    assert len(open_data(tmp_path, split="all")) == 9
    assert ("held out", f"{split} (3)") in told(source)


def test_a_stray_picture_does_not_merge_the_parts(tmp_path):
    for i in range(6):
        put(tmp_path / "train" / "cat" / f"{i}.png", png(i))
        put(tmp_path / "train" / "dog" / f"{i}.png", png(20 + i))
    put(tmp_path / "test" / "cat" / "t.png", png(40))
    put(tmp_path / "cover.png", png(50))
    source = open_data(tmp_path)
    assert (len(source), source.labels) == (12, ["cat", "dog"])
    assert warned(source, "beside the parts", "cover.png")
    assert skipped(source)["cover.png"] == "beside the parts"


@pytest.mark.parametrize("folders", [("test", "cat", "dog"), ("cat/train", "cat/test", "dog/train")])
def test_parts_that_are_not_used_are_said(tmp_path, folders):
    for k, folder in enumerate(folders):
        for i in range(3):
            put(tmp_path / folder / f"{i}.png", png(10 * k + i))
    source = open_data(tmp_path)
    assert len(source) == 9
    assert warned(source, "test/", "parts")
    with pytest.raises(UnknownName, match="no part called 'test'"):
        open_data(tmp_path, split="test")


# ---- metadata of every kind ----


def stylegan(labels):
    return {"dataset.json": json.dumps({"labels": labels})}


FILES = [f"{i // 3:05d}/img{i}.png" for i in range(6)]
ROWS = [{"file_name": file, "text": f"picture {i}"} for i, file in enumerate(FILES)]
CSV = "file_name{0}text\n" + "".join(f"{file}{{0}}picture {i}\n" for i, file in enumerate(FILES))


@pytest.mark.parametrize(
    ("files", "labels", "captions"),
    [
        (stylegan([[file, i % 2] for i, file in enumerate(FILES)]), ["0", "1"], 0),
        (stylegan([[file, [0, 0, 1] if i % 2 else [1, 0, 0]] for i, file in enumerate(FILES)]), ["0", "2"], 0),
        (stylegan(None), None, 0),
        ({"metadata.json": json.dumps(ROWS)}, ["00000", "00001"], 6),
        (
            {"metadata.json": json.dumps({row["file_name"]: {"text": row["text"]} for row in ROWS})},
            ["00000", "00001"],
            6,
        ),
        ({"metadata.json": json.dumps({row["file_name"]: row["text"] for row in ROWS})}, ["00000", "00001"], 6),
        ({"metadata.jsonl": "\n".join(json.dumps({**row, "text": 7}) for row in ROWS)}, ["00000", "00001"], 6),
        ({"metadata.csv": CSV.format(",")}, ["00000", "00001"], 6),
        ({"metadata.csv": CSV.format(";")}, ["00000", "00001"], 6),
        ({"metadata.csv": CSV.format("\t")}, ["00000", "00001"], 6),
        ({"metadata.csv": CSV.format(",").replace("/", "\\")}, ["00000", "00001"], 6),
        ({"metadata.csv": CSV.format(",").replace("img", "IMG")}, ["00000", "00001"], 6),
        ({"captions.tsv": CSV.format("\t").replace("file_name", "image")}, ["00000", "00001"], 6),
    ],
)
def test_metadata_is_read_by_its_rule(tmp_path, files, labels, captions):
    """Folders stay classes where metadata says captions only; StyleGAN's folders are storage."""
    for i, file in enumerate(FILES):
        put(tmp_path / file, png(i))
    for name, text in files.items():
        put(tmp_path / name, text)
    source = open_data(tmp_path)
    assert (len(source), source.labels, source.report["captions"]) == (6, labels, captions)
    if captions:
        assert source.text(0) == ("7" if "7" in str(files) and "jsonl" in str(files) else "picture 0")


@pytest.mark.parametrize("name", ["notes.json", "boxes.xml", "list.csv", "more.parquet", "coco.jsonl", "conf.yaml"])
def test_what_looks_like_metadata_and_is_not_used_is_named(tmp_path, name):
    for i in range(3):
        put(tmp_path / f"{i}.png", png(i))
    put(tmp_path / name, "a,b\n1,2\n" if name.endswith("csv") else '{"a": 1}')
    source = open_data(tmp_path)
    assert len(source) == 3
    assert warned(source, "Not used", name)


def test_depth_is_no_trouble_in_any_json(tmp_path):
    for i in range(3):
        put(tmp_path / f"{i}.png", png(i))
    deep = "[" * 100_000
    put(tmp_path / "0.json", deep)
    put(tmp_path / "other.json", deep)
    source = open_data(tmp_path, allow_bad=0.5)
    assert skipped(source)["0.png"] == "json beside it is damaged"
    assert warned(source, "other.json")
    put(tmp_path / "metadata.json", deep)
    with pytest.raises(DataError, match="is not JSON"):
        open_data(tmp_path, allow_bad=0.5)


def test_a_label_that_is_a_list_is_said_and_its_caption_kept(tmp_path):
    for i in range(4):
        put(tmp_path / f"{i}.png", png(i))
        put(tmp_path / f"{i}.json", json.dumps({"caption": f"pic {i}", "label": [0, 1] if i else [3]}))
    source = open_data(tmp_path)
    assert (len(source), source.report["captions"], source.labels) == (4, 4, None)
    assert warned(source, "3 pictures have several labels")


def test_boxes_are_no_captions(tmp_path):
    for i in range(3):
        put(tmp_path / f"{i}.png", png(i))
        put(tmp_path / f"{i}.txt", "0 0.5 0.5 0.2 0.2\n17 0.1 0.25 0.1 1e-3\n")
    source = open_data(tmp_path)
    assert not source.has_text
    assert warned(source, "3 .txt files hold boxes")


@pytest.mark.parametrize(
    ("picture_", "map_"),
    [("{}.jpg", "{}.seg.png"), ("{}.png", "{}_mask.png"), ("images/{}.png", "masks/{}.png"), ("a/{}.png", "gt/{}.png")],
)
def test_maps_beside_pictures_are_no_pictures(tmp_path, picture_, map_):
    for i in range(4):
        put(tmp_path / picture_.format(i), png(i))
        put(tmp_path / map_.format(i), png(100 + i, mode="L"))
    source = open_data(tmp_path)
    assert (len(source), source.labels) == (4, None)
    assert warned(source, "4 pictures belong to others")


def test_a_webdataset_sample_of_several_pictures_keeps_its_label(tmp_path):
    with tarfile.open(tmp_path / "s.tar", "w") as tar:
        for i in range(6):
            for end, data in (("jpg", png(i)), ("seg.png", png(9)), ("txt", b"pic"), ("cls", str(i % 2).encode())):
                info = tarfile.TarInfo(f"{i:04d}.{end}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    source = open_data(tmp_path / "s.tar")
    assert (len(source), source.labels, source.report["captions"]) == (6, ["0", "1"], 6)


# ---- names ----


def test_names_are_compared_composed(tmp_path):
    nfd, nfc = unicodedata.normalize("NFD", "café"), unicodedata.normalize("NFC", "café")
    for i in range(3):
        put(tmp_path / nfd / f"{nfd}{i}.png", png(i))
        put(tmp_path / "tea" / f"{i}.png", png(10 + i))
    put(tmp_path / "metadata.jsonl", "".join(json.dumps({"file_name": f"{nfc}/{nfc}{i}.png"}) + "\n" for i in range(3)))
    source = open_data(tmp_path)
    assert len(source) == 3
    (tmp_path / "metadata.jsonl").unlink()
    assert open_data(tmp_path).labels == [nfc, "tea"]


class Raw(zipfile.ZipInfo):
    def _encodeFilenameFlags(self):  # as zipfile calls it
        return self.raw, self.flag_bits & ~0x800


@pytest.mark.parametrize(
    ("encoding", "classes"),
    [("gbk", ["狗", "猫"]), ("cp932", ["ねこ", "いぬ"]), ("utf-8", ["猫", "犬"]), ("cp437", ["café", "thé"])],
)
def test_names_in_a_zip_without_a_flag(tmp_path, encoding, classes):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as file:
        for i in range(8):
            name = f"{classes[i % 2]}/{i}.png"
            info = Raw(name)
            info.raw = name.encode(encoding)
            file.writestr(info, png(i))
    source = open_data(tmp_path / "a.zip")
    assert sorted(source.labels) == sorted(classes)
    assert warned(source, "does not say in which encoding its names are") == (encoding != "cp437")


@pytest.mark.parametrize("name", ["..\\x.png", "C:\\x.png", "\\\\server\\x.png", "a\\..\\..\\x.png"])
def test_backslashes_do_not_break_out(tmp_path, name):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as file:
        for k, path in enumerate(["pets\\cat\\1.png", "pets\\dog\\2.png", name]):
            info = zipfile.ZipInfo("x")
            info.filename = path
            file.writestr(info, png(k))
    source = open_data(tmp_path / "a.zip", allow_bad=0.5)
    assert (len(source), source.labels) == (2, ["cat", "dog"])
    assert list(skipped(source).values()) == ["path leaves the archive"]


def test_a_snapshot_of_the_hubs_cache_is_read_and_other_links_are_not(tmp_path):
    repository = tmp_path / "hub" / "datasets--me--pets"
    snapshot = repository / "snapshots" / "abc"
    for i in range(3):
        blob = put(repository / "blobs" / f"{i:064x}", png(i))
        (snapshot / "train").mkdir(parents=True, exist_ok=True)
        (snapshot / "train" / f"{i}.png").symlink_to(os.path.relpath(blob, snapshot / "train"))
    assert len(open_data(snapshot)) == 3
    assert len(open_data(snapshot / "train")) == 3
    put(tmp_path / "secret.png", png(9))
    (snapshot / "train" / "out.png").symlink_to(tmp_path / "secret.png")
    assert skipped(open_data(snapshot, allow_bad=0.5))["train/out.png"] == "link out of the folder"
    elsewhere = tmp_path / "plain"
    elsewhere.mkdir()
    (elsewhere / "a.png").symlink_to(repository / "blobs" / f"{0:064x}")
    with pytest.raises(DataError, match="link out of the folder"):
        open_data(elsewhere)


def test_a_thousand_nested_folders(tmp_path):
    """Deeper than Python recurses, and than a path may be long."""
    put(tmp_path / "a.png", png())
    here = os.open(tmp_path, os.O_RDONLY)
    try:
        for _ in range(1500):
            os.mkdir("deep", dir_fd=here)
            inner = os.open("deep", os.O_RDONLY, dir_fd=here)
            os.close(here)
            here = inner
    finally:
        os.close(here)
    try:
        assert len(open_data(tmp_path, allow_bad=0.9)) == 1
    finally:
        subprocess.run(["rm", "-rf", str(tmp_path / "deep")], check=True)  # deeper than shutil goes


# ---- companions, runs, names of sets ----


def test_companions_of_photographs_are_nothing_bad(tmp_path):
    for i in range(4):
        put(tmp_path / f"IMG_{i}.JPG", png(i))
        for end in (".MOV", ".AAE", ".xmp", ".THM", ".CR2", ".JPG.json", ".LRV", ".pp3"):
            put(tmp_path / f"IMG_{i}{end}", b"\0\0\0\x14ftypqt  ")
    put(tmp_path / "lonely.CR2", b"II*\0" + bytes(50))
    source = open_data(tmp_path, allow_bad=0.3)
    assert len(source) == 4
    assert source.report["bad"] == 1
    assert skipped(source)["lonely.CR2"].startswith("a raw photograph")
    assert len(source.report["skipped"]) == 4 * 8 + 1


@pytest.mark.skipif(not features.check("avif"), reason="this Pillow was built without AVIF")
def test_avif_is_read(tmp_path):
    for i in range(3):
        picture(i).save(tmp_path / f"{i}.avif")
    assert len(open_data(tmp_path)) == 3


def test_heic_names_what_reads_it(tmp_path):
    put(tmp_path / "a.png", png())
    put(tmp_path / "b.heic", b"\0\0\0\x18ftypheic" + bytes(100))
    found = skipped(open_data(tmp_path, allow_bad=0.6))["b.heic"]
    assert "sfumato[heif]" in found or found == "damaged"  # the second where the extra is here


def test_a_run_among_the_pictures_is_passed_over(tmp_path):
    for i in range(3):
        put(tmp_path / f"{i}.png", png(i))
    before = open_data(tmp_path).fingerprint
    put(tmp_path / "runs" / "a" / "train.json", "{}")
    put(tmp_path / "runs" / "a" / "metrics.jsonl", "")
    put(tmp_path / "runs" / "a" / "samples" / "5.png", png(9))
    source = open_data(tmp_path)
    assert (len(source), source.fingerprint) == (3, before)
    assert skipped(source) == {"runs/a": "a run of sfumato, passed over"}
    with pytest.raises(DataError, match="is a run of sfumato"):
        open_data(tmp_path / "runs" / "a")


def test_a_folder_that_is_called_like_an_embedded_set(tmp_path, monkeypatch):
    for i in range(3):
        put(tmp_path / "digits" / f"{i}.png", png(i))
    monkeypatch.chdir(tmp_path)
    assert warned(open_data("digits"), "embedded set digits", "./digits")
    for path in ("./digits", "digits/", str(tmp_path / "digits"), tmp_path / "digits"):
        assert len(open_data(path)) == 3
    monkeypatch.chdir("/")
    assert open_data("digits").report["warnings"] == []


# ---- doubts about sound pictures ----


def test_doubts_are_said(tmp_path):
    def make(name, n=120, **files):
        for i in range(n):
            put(tmp_path / name / f"{i}.png", png(i, **files))
        return tmp_path / name

    assert open_data(make("plain"), side=16).report["warnings"] == []
    put(tmp_path / "plain" / "copy.png", png(3))
    assert warned(open_data(tmp_path / "plain"), "1 pictures are copies", "3.png and copy.png")
    assert warned(open_data(make("small", size=(16, 16)), side=32), "120 of 120 pictures are smaller than 32")
    assert warned(open_data(make("long", size=(40, 16))), "more than twice as long as wide")
    assert warned(open_data(make("few", n=5)), "5 pictures are few")
    for i in range(6):
        put(tmp_path / "two" / ("a" if i % 2 else "b") / f"{i}.png", png(i // 2))
    assert warned(open_data(tmp_path / "two"), "3 pictures occur under two labels")


def test_white_on_transparency_and_twelve_bits_and_animations(tmp_path):
    for i in range(6):
        values = np.zeros((16, 16, 4), np.uint8)
        values[..., :3], values[4:12, 4 + i : 8 + i, 3] = 255, 255
        put(tmp_path / "logos" / f"{i}.png", b"")
        Image.fromarray(values).save(tmp_path / "logos" / f"{i}.png")
        put(tmp_path / "deep" / f"{i}.png", b"")
        twelve = np.random.default_rng(i).integers(0, 4096, (16, 16)).astype(np.uint16)
        Image.fromarray(twelve).save(tmp_path / "deep" / f"{i}.png")
        put(tmp_path / "films" / f"{i}.gif", b"")
        picture(i).save(tmp_path / "films" / f"{i}.gif", save_all=True, append_images=[picture(i + 50)])
    assert warned(open_data(tmp_path / "logos"), "one colour all over", "--background")
    assert not warned(open_data(tmp_path / "logos", background="black"), "one colour")
    assert warned(open_data(tmp_path / "deep"), "16-bit", "12 bits")
    assert warned(open_data(tmp_path / "films"), "6 animations give their first frame only")
