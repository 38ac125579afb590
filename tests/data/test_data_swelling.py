"""What blocks, swells or is no set at all: it is refused in words, and costs little memory."""

import bz2
import gzip
import io
import lzma
import os
import subprocess
import sys
import tarfile
import zipfile

import numpy as np
import pytest
from kit import png, put
from PIL import Image

from sfumato.core.errors import DataError
from sfumato.data import open_data
from sfumato.data.decode import decode
from sfumato.data.emoji import FILES as EMOJI


@pytest.mark.parametrize("make", [os.mkfifo])
def test_a_pipe_is_no_set(tmp_path, make):
    make(tmp_path / "a.zip")
    with pytest.raises(DataError, match="neither a folder nor a regular file"):
        open_data(tmp_path / "a.zip")


ROOM = """
import resource, sys
from sfumato.core.errors import DataError
from sfumato.data import open_data
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    open_data(sys.argv[1])
except DataError as error:
    print(error)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


PACKED = {"gz": gzip, "bz2": bz2, "xz": lzma}


def room(place):
    """(what opening it said, MiB that it took at the peak)."""
    done = subprocess.run([sys.executable, "-c", ROOM, str(place)], capture_output=True, text=True, check=True)
    *said, kib = done.stdout.splitlines()
    return " ".join(said), int(kib) / 1024


@pytest.mark.parametrize(("kind", "name"), [("gz", "{}.png"), ("gz", "{}.txt"), ("bz2", "{}.png"), ("xz", "{}.txt")])
def test_what_swells_in_a_tar_is_left_packed(tmp_path, kind, name):
    """Members that begin as pictures do, or are read whatever they begin with: none of them is held."""
    place, each = tmp_path / f"a.tar.{kind}", 48 * 2**20
    quick = {"preset": 0} if kind == "xz" else {"compresslevel": 1}
    with PACKED[kind].open(place, "wb", **quick) as packed, tarfile.open(fileobj=packed, mode="w") as file:
        for k in range(6):
            info = tarfile.TarInfo(name.format(k))
            info.size = each
            file.addfile(info, io.BytesIO(png()[:16] + bytes(each - 16)))
        info = tarfile.TarInfo("good.png")
        info.size = len(png())
        file.addfile(info, io.BytesIO(png()))
    said, mib = room(place)
    assert "6 shrunk more than 100 times" in said
    assert mib < 256


def test_a_packed_idx_file_is_read_as_far_as_its_header_says(tmp_path):
    head = b"\0\0\x08\3" + np.array([400 * 2**10, 32, 32], ">u4").tobytes()
    for part in ("train", "t10k"):
        with gzip.open(tmp_path / f"{part}-images-idx3-ubyte.gz", "wb", compresslevel=1) as file:
            file.write(head)
            for _ in range(100):
                file.write(bytes(4 * 2**20))
        (tmp_path / f"{part}-labels-idx1-ubyte").write_bytes(b"\0\0\x08\1" + np.array([4], ">u4").tobytes() + b"1234")
    said, mib = room(tmp_path)
    assert "cannot hold" in said
    assert mib < 256


def test_large_pictures_are_decoded_one_at_a_time(tmp_path):
    """Nine megapixels that are a few kilobytes, on transparency: the same pixels as small ones, one after the other."""
    for i in range(6):
        picture_ = Image.new("RGBA", (3000, 3000), (0, 0, 0, 0))
        picture_.paste((200, 10, 10, 100), (0, 1500, 3000, 3000))
        picture_.save(tmp_path / f"{i}.png", compress_level=1)
    source = open_data(tmp_path, side=8)
    file = io.BytesIO()
    Image.open(tmp_path / "0.png").resize((8, 8), Image.Resampling.NEAREST).save(file, "PNG")
    small = decode(file.getvalue())
    image = source.image(0).permute(1, 2, 0).numpy()
    assert (image[[0, 7], 0] == small[[0, 7], 0]).all()


@pytest.mark.parametrize("name", ["saved/data-0.arrow", "folder/a.png", "idx/train-images-idx3-ubyte"])
def test_a_pipe_within_a_set_blocks_nothing(tmp_path, name):
    path = tmp_path / name
    put(path.parent / "b.png", png())
    if name.startswith("saved"):
        put(path.parent / "state.json", '{"_data_files": [{"filename": "data-0.arrow"}]}')
        put(path.parent / "dataset_info.json", "{}")
    os.mkfifo(path)
    with pytest.raises(DataError, match="not a regular file|not an image format"):
        open_data(path.parent)


@pytest.mark.parametrize(
    ("name", "start", "words"),
    [
        ("a.jpg", png(), "one picture"),
        ("a.heic", b"\0\0\0\x18ftypheic", "one picture"),
        ("a.7z", b"7z\xbc\xaf\x27\x1c", "a 7z archive"),
        ("a.rar", b"Rar!\x1a\7", "a rar archive"),
        ("metadata.csv", b"file_name,text", "name the folder"),
        ("t10k-images-idx3-ubyte.gz", b"\x1f\x8b", "MNIST"),
        ("a.mov", b"\0\0\0\x14ftypqt  ", "no archive that is known"),
    ],
)
def test_a_file_that_is_no_set_is_called_by_its_name(tmp_path, name, start, words):
    put(tmp_path / name, start + bytes(600))
    with pytest.raises(DataError, match=words) as caught:
        open_data(tmp_path / name)
    assert "damaged" not in str(caught.value)


def test_a_folder_of_archives_names_them(tmp_path):
    put(tmp_path / "data" / "train-0.parquet", b"PAR1")
    put(tmp_path / "README.md", b"x")
    with pytest.raises(DataError, match=r"no pictures, but .parquet files.*data/\*\.parquet"):
        open_data(tmp_path)


def test_a_name_that_no_disk_bears_is_refused():
    with pytest.raises(DataError, match="cannot be opened"):
        open_data("x" * 300)


@pytest.mark.parametrize(
    "packed",
    [b"no gzip", gzip.compress(b"[" * 5000, mtime=0), gzip.compress(bytes(70 * 2**20), mtime=0)],
    ids=["no gzip", "deep", "large"],
)
def test_a_damaged_emoji_folder_is_refused(tmp_path, packed):
    for name in EMOJI.values():
        put(tmp_path / name, b"PK")
    put(tmp_path / "captions.jsonl.gz", packed)
    with pytest.raises(DataError, match="captions|cannot be read"):
        open_data(tmp_path)


@pytest.mark.parametrize("kind", ["zip", "tar.gz", "json"])
def test_a_member_of_zeros_costs_no_memory(tmp_path, kind):
    """400 MiB of zeros, a few hundred kilobytes packed, eight of them: less than 512 MiB at the peak."""
    large, start = 400 * 2**20, png()[:16]
    place = tmp_path / f"a.{'zip' if kind != 'tar.gz' else kind}"
    name = "0.png" if kind != "json" else "metadata.json"
    if kind == "tar.gz":
        with gzip.open(place, "wb", compresslevel=1) as packed, tarfile.open(fileobj=packed, mode="w") as file:
            info = tarfile.TarInfo("0.jpg")
            info.size = large
            file.addfile(info, open("/dev/zero", "rb"))  # noqa: SIM115  # closed with the process
    else:
        with zipfile.ZipFile(place, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as file:
            for k in range(2):
                with file.open(name if not k else "1.png", "w", force_zip64=True) as member:
                    member.write(start if name.endswith("png") else b"[")
                    for _ in range(large >> 22):
                        member.write(bytes(1 << 22))
    said = subprocess.run([sys.executable, "-c", ROOM, str(place)], capture_output=True, text=True, check=True)
    assert "0 usable" in said.stdout or "%" in said.stdout or "cannot be read" in said.stdout, said.stdout
    assert int(said.stdout.splitlines()[-1]) < 512 * 1024  # KiB
