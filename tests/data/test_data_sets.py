"""The sets that the package ships: emoji and its splits, digits, and idx folders."""

from __future__ import annotations

import gzip
import os
import struct
from collections import Counter
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
import torch

from sfumato.core.errors import DataError, UnknownName, UsageError
from sfumato.data import names, open_data
from sfumato.data.emoji import STYLES, embedded_table, read_query, select, split_of

SHARED = Path(os.environ.get("SFUMATO_SHARED_DATA", Path(__file__).resolve().parents[3] / "shared" / "data"))
needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason=f"the bench sets are not at {SHARED}")


def pairs(query: str = "", split: str = "train", language: str = "en") -> set[tuple[str, str]]:
    table = embedded_table()
    found = select(table, read_query(query, table, split, language))
    return {(table.rows[i]["hex"], style) for i, style in found}


def test_the_package_stays_small():
    """What is shipped: at most 4 MB for the emoji, and little else."""
    sizes = {f.name: len(f.read_bytes()) for f in (resources.files("sfumato.data") / "embedded").iterdir()}
    assert sum(n for name, n in sizes.items() if name.startswith("emoji")) <= 4_000_000
    assert sum(sizes.values()) <= 4_200_000


def test_the_licences_of_what_is_shipped_are_in_the_notice():
    notice = (Path(__file__).resolve().parents[2] / "NOTICE").read_text()
    for file in (resources.files("sfumato.data") / "embedded").iterdir():
        assert file.name in notice
    for words in ("CC BY 4.0", "Apache License 2.0", "Unicode License v3", "MIT License"):
        assert words in notice


def test_names_and_their_sets():
    assert list(names()) == ["emoji", "scenes", "digits"]
    assert all(len(open_data(name)) > 1000 for name in names())


def test_emoji_table():
    table = embedded_table()
    assert len(table.rows) >= 600
    assert all(row["name"][language] for row in table.rows for language in ("en", "zh", "de", "pt", "th"))
    assert len({row["hex"] for row in table.rows}) == len(table.rows)


def test_the_splits_are_disjoint_and_complete():
    parts = {split: pairs(split=split) for split in ("train", "unseen-pairs", "unseen-emoji")}
    assert sum(map(len, parts.values())) == len(set.union(*parts.values())) == len(pairs(split="all"))
    seen = {code for code, _ in parts["train"]}
    assert not seen & {code for code, _ in parts["unseen-emoji"]}
    assert {code for code, _ in parts["unseen-pairs"]} <= seen  # each is seen in another style
    assert all(len({s for c, s in parts["unseen-emoji"] if c == code}) == 3 for code, _ in parts["unseen-emoji"])


def test_the_splits_have_their_sizes():
    """10 % of the emoji, 15 % of the other pairs: within four binomial standard deviations."""
    n = len(embedded_table().rows)
    held, left = len(pairs(split="unseen-emoji")) / 3, n * 0.9 * 3
    assert abs(held - 0.10 * n) < 4 * (n * 0.09) ** 0.5
    assert abs(len(pairs(split="unseen-pairs")) - 0.15 * left) < 4 * (left * 0.1275) ** 0.5


@pytest.mark.parametrize(
    ("code", "splits"),
    [
        ("1F34E", ("train", "train", "train")),
        ("1F600", ("unseen-pairs", "train", "train")),
        ("1F33B", ("unseen-pairs", "train", "train")),
        ("1F984", ("train", "unseen-pairs", "train")),
        ("1F3A8", ("train", "train", "unseen-pairs")),
        ("1FAA2", ("unseen-emoji",) * 3),
        ("1F3C6", ("unseen-emoji",) * 3),
    ],
)
def test_members_of_the_splits_are_pinned(code, splits):
    """Scores of different versions are comparable only while these stand."""
    assert tuple(split_of(code, style) for style in STYLES) == splits


def test_an_emoji_in_one_style_is_never_an_unseen_pair():
    codes = [f"{k:X}" for k in range(0x1F300, 0x1F400)]
    assert {split_of(code, "3d", ["3d"]) for code in codes} == {"train", "unseen-emoji"}


def test_emoji_queries():
    everything = open_data("emoji:all")
    assert Counter(everything.text(i).rpartition(", ")[2] for i in range(len(everything))) == dict.fromkeys(
        STYLES, 1149
    )
    food = open_data("emoji:food+all+3d")
    assert {c.rpartition(", ")[2] for c in food.captions()} == {"3d"}
    assert "red apple, 3d" in list(food.captions())
    assert set(food.batch(range(len(food)))["label"].tolist()) == {food.labels.index("food-drink")}
    assert pairs("food+faces") == pairs("food") | pairs("faces")
    assert pairs("food+flat") == {p for p in pairs("food") if p[1] == "flat"}
    assert pairs("unseen-emoji") == pairs(split="unseen-emoji")
    assert pairs(split="test") == pairs("unseen-pairs")
    assert len(open_data("emoji:by-style").labels) == 3
    assert len(open_data("emoji:by-emoji").labels) >= 1100


def test_emoji_captions_in_five_languages():
    expected = {"en": "red apple", "zh": "红苹果", "de": "roter Apfel", "pt": "maçã vermelha", "th": "แอปเปิ้ลแดง"}
    for language, name in expected.items():
        assert f"{name}, noto" in list(open_data("emoji:food+all", language=language).captions())
        assert f"{name}, noto" in list(open_data(f"emoji:food+all+{language}").captions())


def test_keywords_widen_the_captions():
    source = open_data("emoji:food+all+keywords")
    i = list(source.captions()).index("red apple, flat")
    said = {source.text(i, choice) for choice in range(1, 40)}
    assert len(said) > 3
    assert all(text.endswith(", flat") for text in said)
    assert source.text(i, 5) == source.text(i, 5)
    assert open_data("emoji:food+all").text(i, 5) == "red apple, flat"


def test_emoji_pictures():
    """The background shows at the corners, the apple is red in the middle, and sides and greys are made from it."""
    red = [0, 0, 0]
    for k, background in enumerate(("white", "black", (10, 20, 30))):
        source = open_data("emoji:food+all+flat", background=background)
        apple = source.image(list(source.captions()).index("red apple, flat"))
        assert apple[:, 0, 0].tolist() == [[255] * 3, [0] * 3, [10, 20, 30]][k]
        red[k] = apple[:, 18, 16].tolist()
    assert red[0] == red[1] == red[2]
    assert red[0][0] > 180 > 90 > red[0][1]
    assert open_data("emoji:food", side=16, channels=1).image(0).shape == (1, 16, 16)


def test_wrong_emoji_queries():
    for query, near in (("emoji:foods", "'food'"), ("emoji:3D+unseen-pair", "'unseen-pairs'")):
        with pytest.raises(UnknownName, match=near):
            open_data(query)
    with pytest.raises(UnknownName, match="language"):
        open_data("emoji", language="xx")
    with pytest.raises(UnknownName, match="split"):
        open_data("emoji", split="trains")


def test_digits():
    digits = pytest.importorskip("sklearn.datasets", reason="a development dependency").load_digits()
    source = open_data("digits", side=8, channels=1, split="all")
    pixels = torch.stack([source.image(i)[0] for i in range(len(source))]).numpy()
    assert (pixels == np.rint(digits.images * 255 / 16)).all()
    assert [source.label(i) for i in range(1797)] == digits.target.tolist()
    train, test = (open_data("digits", split=split) for split in ("train", "test"))
    assert (len(train), len(test)) == (1498, 299)
    assert train.fingerprint != test.fingerprint
    assert source.labels == list("0123456789")
    with pytest.raises(UsageError):
        open_data("digits:even")
    with pytest.raises(UnknownName):
        open_data("digits", split="valid")


def idx(path: Path, array: np.ndarray, packed: bool) -> None:
    data = struct.pack(">BBBB", 0, 0, 8, array.ndim) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()
    path.write_bytes(gzip.compress(data) if packed else data)


@pytest.mark.parametrize("packed", [True, False])
def test_an_idx_folder(tmp_path, packed):
    rng, end = np.random.default_rng(0), ".gz" if packed else ""
    images, labels = rng.integers(0, 256, (30, 28, 28), dtype=np.uint8), np.arange(30, dtype=np.uint8) % 10
    for part, n in (("train", 20), ("t10k", 10)):
        idx(tmp_path / f"{part}-images-idx3-ubyte{end}", images[:n], packed)
        idx(tmp_path / f"{part}-labels-idx1-ubyte{end}", labels[:n], packed)
    source = open_data(tmp_path, channels=1)
    assert (len(source), source.side) == (20, 28)
    assert (source.image(7)[0].numpy() == images[7]).all()
    assert source.label(7) == 7
    assert [len(open_data(tmp_path, split=s)) for s in ("test", "all")] == [10, 30]
    file = tmp_path / f"train-images-idx3-ubyte{end}"
    whole = file.read_bytes()
    for damaged in (whole[: len(whole) // 2], b"\0\0\x0d\x03" + whole[4:], b"", b"\x1f\x8b" + whole[40:]):
        file.write_bytes(damaged)
        with pytest.raises(DataError):
            open_data(tmp_path)
    file.unlink()
    with pytest.raises(DataError, match="lacks"):
        open_data(tmp_path)


@needs_shared
def test_mnist_itself():
    """The published mean and standard deviation of the training pictures: 0.1307 and 0.3081 of full white."""
    source = open_data(SHARED / "mnist", channels=1)
    pixels = torch.stack([source.image(i) for i in range(len(source))]).double() / 255
    assert len(source) == 60_000
    assert abs(pixels.mean() - 0.1307) < 1e-4
    assert abs(pixels.std() - 0.3081) < 1e-4
    assert [source.label(i) for i in range(5)] == [5, 0, 4, 1, 9]


@needs_shared
def test_the_full_emoji_folder_agrees_with_the_embedded_part():
    """The same splits; the shipped pictures are the 2 × 2 means of the full ones, equal to within rounding (one
    level each for the stored sprite, for its alpha and for compositing)."""
    full, part = open_data(f"{SHARED / 'emoji'}:animals+flat", background="white"), open_data("emoji:animals+flat")
    where = {text: i for i, text in enumerate(full.captions())}
    assert set(part.captions()) <= set(where)
    for i in range(0, len(part), 9):
        large = full.image(where[part.text(i)]).double()
        mean = large.reshape(3, 32, 2, 32, 2).mean((2, 4))
        assert (mean - part.image(i)).abs().max() <= 3
    assert len(open_data(f"{SHARED / 'emoji'}:all+skin")) == 10_834
    assert len(open_data(SHARED / "emoji", split="all")) == 1911 + 1891 + 1852
