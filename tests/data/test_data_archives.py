"""Zips, tars, webdataset shards: read in place, never unpacked, and hostile members refused."""

from __future__ import annotations

import io
import json
import os
import stat
import tarfile
import zipfile

import numpy as np
import pytest
import torch
from kit import skipped
from PIL import Image

from sfumato.core.errors import DataError, UnknownName
from sfumato.data import archives, open_data

RNG = np.random.default_rng(5)


def png(size: int = 12) -> bytes:
    file = io.BytesIO()
    Image.fromarray(RNG.integers(0, 256, (size, size, 3), dtype=np.uint8)).save(file, "PNG")
    return file.getvalue()


def zipped(path, members):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


def tarred(path, members, mode="w"):
    with tarfile.open(path, mode) as archive:
        for name, data in members.items():
            info = name if isinstance(name, tarfile.TarInfo) else tarfile.TarInfo(name)
            info.size = len(data) if info.isreg() else 0
            archive.addfile(info, io.BytesIO(data) if info.isreg() else None)
    return path


PICTURES = {f"set/{name}/{i}.png": png() for name in ("cat", "dog") for i in range(3)}


@pytest.mark.parametrize("kind", ["zip", "tar", "tar.gz", "tar.bz2", "tar.xz"])
def test_an_archive_is_the_folder_it_was_made_from(tmp_path, kind):
    folder = tmp_path / "folder"
    for name, data in PICTURES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    path = tmp_path / f"a.{kind}"
    mode = "w" + (":" + kind.split(".")[1] if "." in kind else "")
    archive = open_data(zipped(path, PICTURES) if kind == "zip" else tarred(path, PICTURES, mode), side=8)
    plain = open_data(folder, side=8)
    assert archive.labels == plain.labels == ["cat", "dog"]
    assert torch.equal(archive.batch(range(6))["image"], plain.batch(range(6))["image"])
    assert archive.fingerprint == plain.fingerprint
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([path.name, "folder"])  # nothing was unpacked


def test_a_hostile_zip(tmp_path):
    link = zipfile.ZipInfo("link.png")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    path = zipped(tmp_path / "a.zip", {f"{i}.png": png() for i in range(16)})
    with zipfile.ZipFile(path, "a") as archive:
        for name in ("../out.png", "/abs.png", "x/../../y.png", "C:\\z.png"):
            archive.writestr(name, png())
        archive.writestr(link, "/etc/passwd")
        archive.writestr("__MACOSX/._0.png", b"litter")
    source = open_data(path, side=8, allow_bad=0.3)
    assert len(source) == 16
    assert sorted(skipped(source).values()) == ["not a regular file"] + ["path leaves the archive"] * 4
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.zip"]
    assert not (tmp_path.parent / "out.png").exists()


def test_a_hostile_tar(tmp_path):
    members: dict = {f"{i}.png": png() for i in range(16)}
    for name, kind in (
        ("l.png", tarfile.SYMTYPE),
        ("h.png", tarfile.LNKTYPE),
        ("f.png", tarfile.FIFOTYPE),
        ("c.png", tarfile.CHRTYPE),
    ):
        info = tarfile.TarInfo(name)
        info.type, info.linkname = kind, "/etc/passwd"
        members[info] = b""
    members["../out.png"] = png()
    source = open_data(tarred(tmp_path / "a.tar", members), side=8, allow_bad=0.3)
    assert len(source) == 16
    assert sorted(skipped(source).values()) == ["not a regular file"] * 4 + ["path leaves the archive"]


def test_a_zip_member_with_damage_is_one_bad_picture(tmp_path):
    path = zipped(tmp_path / "a.zip", {f"{i}.png": png() for i in range(5)})
    with zipfile.ZipFile(path) as archive:
        at = archive.infolist()[2].header_offset + 60
    data = bytearray(path.read_bytes())
    data[at] ^= 255
    path.write_bytes(data)
    source = open_data(path, side=8, allow_bad=0.2)
    assert skipped(source) == {"2.png": "damaged in the archive"}


def test_an_encrypted_member_is_named(tmp_path):
    path = zipped(tmp_path / "a.zip", {"0.png": png(), "1.png": png()})
    data = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        directory = archive.start_dir
    data[directory + 8] |= 1  # the flag of the first entry of the central directory
    path.write_bytes(data)
    assert skipped(open_data(path, side=8, allow_bad=0.5)) == {"0.png": "encrypted"}


@pytest.mark.parametrize("kind", ["zip", "tar", "tar.gz"])
@pytest.mark.parametrize("part", [0.3, 0.7, 0.95])
def test_an_archive_cut_short_is_never_silently_smaller(tmp_path, kind, part):
    """With no bad file allowed, what is left of the archive is refused by our own error."""
    members = {f"{i}.png": png(32) for i in range(12)}
    path = tmp_path / f"a.{kind}"
    zipped(path, members) if kind == "zip" else tarred(path, members, "w:gz" if kind == "tar.gz" else "w")
    data = path.read_bytes()
    end = len(data) if kind != "tar" else 12 * (512 + 512 * -(-len(members["0.png"]) // 512))
    path.write_bytes(data[: int(end * part)])
    with pytest.raises(DataError):
        open_data(path, side=8, allow_bad=0)


def test_random_bytes_in_archives_raise_only_our_error(tmp_path):
    for kind in ("zip", "tar", "tar.gz"):
        path = tmp_path / f"a.{kind}"
        zipped(path, PICTURES) if kind == "zip" else tarred(path, PICTURES, "w:gz" if kind == "tar.gz" else "w")
        whole, rng = path.read_bytes(), np.random.default_rng(7)
        for _ in range(30):
            data = bytearray(whole)
            for at in rng.integers(0, len(data), 6):
                data[at] = rng.integers(0, 256)
            path.write_bytes(data)
            try:
                open_data(path, side=8, allow_bad=0.9)
            except (DataError, UnknownName):
                continue


def test_webdataset_shards(tmp_path):
    for shard in range(3):
        members = {}
        for i in range(4):
            members[f"{i:03}.png"] = png()
            members[f"{i:03}.txt"] = f"caption {shard} {i}".encode()
            members[f"{i:03}.cls"] = str(i % 2).encode()
        tarred(tmp_path / f"s-{shard:03}.tar", members)
    for pattern, n in (("s-{000..002}.tar", 12), ("s-*.tar", 12), ("s-{000,002}.tar", 8), ("s-001.tar", 4)):
        source = open_data(str(tmp_path / pattern), side=8)
        assert (len(source), source.labels) == (n, ["0", "1"])
    source = open_data(str(tmp_path / "s-{000..002}.tar"), side=8)
    assert source.text(5) == "caption 1 1"
    assert source.label(5) == 1
    with pytest.raises(UnknownName, match=r"s-003\.tar"):
        open_data(str(tmp_path / "s-{000..003}.tar"))


def test_what_the_webdataset_library_writes_is_read(tmp_path):
    wds = pytest.importorskip("webdataset", reason="the extra `data`")
    with wds.TarWriter(str(tmp_path / "a.tar")) as writer:
        for i in range(4):
            writer.write({"__key__": f"{i:03}", "png": png(), "json": {"text": f"words {i}", "label": i % 2}})
    source = open_data(tmp_path / "a.tar", side=8)
    assert list(source.captions()) == [f"words {i}" for i in range(4)]
    assert source.labels == ["0", "1"]


def test_damaged_json_beside_a_picture_is_named(tmp_path):
    members = {"0.png": png(), "0.json": b'{"text": "x', "1.png": png(), "1.json": b"[" * 100_000, "2.png": png()}
    source = open_data(tarred(tmp_path / "a.tar", members), side=8, allow_bad=0.7)
    assert skipped(source) == {"0.png": "json beside it is damaged", "1.png": "json beside it is damaged"}


def test_metadata_in_an_archive(tmp_path):
    rows = [{"file_name": f"{i}.png", "text": f"t{i}"} for i in range(3)] + [{"file_name": "../3.png", "text": "no"}]
    members = {f"in/{i}.png": png() for i in range(3)} | {
        "in/metadata.jsonl": "\n".join(map(json.dumps, rows)).encode()
    }
    source = open_data(zipped(tmp_path / "a.zip", members), side=8, allow_bad=0.3)
    assert list(source.captions()) == ["t0", "t1", "t2"]
    assert skipped(source) == {"in/metadata.jsonl:4": "path leaves the folder"}


def test_a_packed_tar_beyond_the_budget_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(archives, "BUDGET", 100)
    with pytest.raises(DataError, match="plain tar"):
        open_data(tarred(tmp_path / "a.tar.gz", PICTURES, "w:gz"), side=8)


def test_a_file_that_is_no_archive(tmp_path):
    for name, data in (("a.zip", b"hello"), ("b.tar", os.urandom(2000)), ("d.tar", b"")):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(DataError, match="0 usable"):
            open_data(tmp_path / name)
    for name, data, answer in (
        ("c.jpg", png(), "is one picture, and a set is a folder of them"),
        ("e.7z", b"7z\xbc\xaf\x27\x1c" + bytes(60), "is a 7z archive, which is not read"),
        ("f.rar", b"Rar!\x1a\x07\x01\0" + bytes(60), "is a rar archive, which is not read"),
        ("g.parquet", b"PAR1" + bytes(60), "is no readable Parquet file"),
    ):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(DataError, match=answer):
            open_data(tmp_path / name)
