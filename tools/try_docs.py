"""Tries what the pages say of sizes, masks, labels, parts and paths: each claim once, on files made for it.

    python tools/try_docs.py

A claim is the words that stand on a page, and a function that tries them. Words that are no longer there, and claims
that do not hold, are named; the exit code is their number.
"""

from __future__ import annotations

import contextlib
import gzip
import io
import os
import sys
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from sfumato.cli import main as sfumato
from sfumato.core.errors import SfumatoError
from sfumato.data import open_data

DOCS = Path(__file__).resolve().parent.parent / "docs"
PICTURES, TRAIN, EDIT, SAMPLE = "your-own-pictures.md", "verbs/train.md", "verbs/edit.md", "verbs/sample.md"
CLAIMS: list[tuple[str, str, Callable[[Path], Any]]] = []


def claim(page: str, words: str) -> Callable[[Callable[[Path], Any]], Callable[[Path], Any]]:
    def register(attempt: Callable[[Path], Any]) -> Callable[[Path], Any]:
        CLAIMS.append((page, words, attempt))
        return attempt

    return register


def picture(seed: int, width: int = 24, height: int | None = None, mode: str = "RGB") -> Image.Image:
    bands = len(mode)
    shape = (height or width, width) + ((bands,) if bands > 1 else ())
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8), mode)


def put(place: Path, seed: int, **shape: Any) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    picture(seed, **shape).save(place)


def told(*words: Any) -> tuple[int, str]:
    """(exit code, all that was said)."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        code = sfumato([str(word) for word in words])
    return code, said.getvalue()


# ---- labels, captions, parts ----


@claim(PICTURES, "| a folder per class: `photos/cat/1.jpg`, `photos/dog/2.jpg` | the folders' names | – |")
def _folders(place: Path) -> None:
    put(place / "cat/1.jpg", 1)
    put(place / "dog/2.jpg", 2)
    assert open_data(place).labels == ["cat", "dog"]


@claim(PICTURES, "| `1.jpg` beside `1.txt` (or `1.caption`) | – | the text file; one of boxes")
def _beside(place: Path) -> None:
    put(place / "1.png", 1)
    put(place / "2.png", 2)
    (place / "1.txt").write_text("a cat")
    (place / "2.txt").write_text("0 0.5 0.5 0.1 0.2\n")
    source = open_data(place)
    assert source.text(0) == "a cat"
    assert any("boxes" in warning for warning in source.report["warnings"])


@claim(PICTURES, "`.csv` (commas, semicolons, tabs)")
def _semicolons(place: Path) -> None:
    put(place / "1.png", 1)
    put(place / "2.png", 2)
    (place / "metadata.csv").write_text("File_Name;Text;LABEL\n1.png;one;a\n2.png;two;b\n")
    source = open_data(place)
    assert ([source.text(i) for i in range(2)], source.labels) == (["one", "two"], ["a", "b"])


@claim(PICTURES, "| a `.zip`, `.tar`, `.tar.gz` of any of these | the same | the same |")
def _zip(place: Path) -> None:
    with zipfile.ZipFile(place / "set.zip", "w") as file:
        for i, name in enumerate(("cat", "dog")):
            data = io.BytesIO()
            picture(i).save(data, "PNG")
            file.writestr(f"{name}\\{i}.png", data.getvalue())  # as some programs of Windows write them
    assert open_data(place / "set.zip").labels == ["cat", "dog"]


@claim(PICTURES, "are parts, whatever their case and by their other names too (`training`, `testing`, `dev`,")
def _parts(place: Path) -> None:
    for i, name in enumerate(("Training", "TESTING", "dev")):
        put(place / name / "x" / f"{i}.png", i)
        put(place / name / "y" / f"{i}.png", 10 + i)
    assert [len(open_data(place, split=split)) for split in ("train", "test", "valid")] == [2, 2, 2]
    assert open_data(place).labels == ["x", "y"]


@claim(PICTURES, "a picture that lies in none is left aside. Without them everything is `train`.")
def _stray(place: Path) -> None:
    put(place / "train/1.png", 1)
    put(place / "test/2.png", 2)
    put(place / "stray.png", 3)
    assert len(open_data(place)) == 1
    put(place / "other/a.png", 4)
    assert len(open_data(place / "other")) == 1


@claim(PICTURES, "maps and masks beside pictures (`1.seg.png`, `1_mask.png`, `masks/1.png`, `train_masks/1.png`)")
def _maps(place: Path) -> None:
    for name in ("1.png", "1.seg.png", "2.png", "2_mask.png", "3.png", "masks/3.png"):
        put(place / name, len(name))
    source = open_data(place)
    assert len(source) == 3
    assert any("left aside" in warning for warning in source.report["warnings"])


# ---- sizes and pixels ----


@claim(
    PICTURES,
    "the shorter side that all pictures share, else the median shorter side rounded down to a",
)
def _natural(place: Path) -> None:
    for i, side in enumerate((30, 45, 61)):
        put(place / f"a/{i}.png", i, width=side)
        put(place / f"b/{i}.png", i, width=26, height=26 + i)
    assert open_data(place / "a").side == 40
    assert open_data(place / "b").side == 26


@claim(PICTURES, "`train` takes that of the recipe's size (32 for `s`), and says which sizes the pictures have.")
def _train_side(place: Path) -> None:
    for i in range(4):
        put(place / f"set/{i}.png", i, width=50, height=40)
    code, said = told("train", "ae", place / "set", "--out", place / "run", "--steps", 1, "--score", 0)
    assert code == 0, said
    assert "50x40 (4)" in said
    assert "32×32" in said


@claim(PICTURES, "The largest centred square is resampled")
def _square(place: Path) -> None:
    wide = Image.new("RGB", (60, 20), "black")
    wide.paste("white", (20, 0, 40, 20))
    wide.save(place / "1.png")
    assert int(open_data(place, side=20).image(0).min()) == 255


@claim(PICTURES, "16-bit greys are scaled to 8")
def _sixteen(place: Path) -> None:
    Image.fromarray(np.full((8, 8), 0x8080, np.uint16)).save(place / "1.png")
    assert int(open_data(place, side=8, channels=1).image(0)[0, 0, 0]) == 128


@claim(PICTURES, "transparency shows the `background`, white unless `--background`")
def _background(place: Path) -> None:
    Image.new("RGBA", (8, 8), (9, 9, 9, 0)).save(place / "1.png")
    assert int(open_data(place, side=8).image(0).min()) == 255
    assert int(open_data(place, side=8, background="black").image(0).max()) == 0


@claim(PICTURES, "More than 64 megapixels are refused\n   before decoding.")
def _giant(place: Path) -> None:
    Image.new("1", (8300, 8300)).save(place / "1.png")
    put(place / "2.png", 2)
    source = open_data(place, allow_bad=0.5)
    assert len(source) == 1
    assert source.report["skipped"] == [{"file": "1.png", "reason": "too large"}]


# ---- paths and refusals ----


@claim(PICTURES, "are the embedded sets; a folder of yours that is called so is `./digits`.")
def _shadow(place: Path) -> None:
    put(place / "digits/1.png", 1)
    before = Path.cwd()
    os.chdir(place)
    try:
        assert len(open_data("digits")) > 1000
        assert len(open_data("./digits")) == 1
    finally:
        os.chdir(before)


@claim(PICTURES, "If more than 5 % of the files are bad (`--allow-bad`), training does not start")
def _bad(place: Path) -> None:
    for i in range(9):
        put(place / f"{i}.png", i)
    (place / "9.png").write_bytes((place / "8.png").read_bytes()[:60])
    code, said = told("train", "ae", place, "--out", place.parent / "run", "--steps", 1)
    assert (code, "9.png" in said) == (3, True)
    assert told("data", place)[0] == 3
    assert told("data", place, "--allow-bad", 0.2)[0] == 0


@claim(PICTURES, "is a link out of the folder")
def _link(place: Path) -> None:
    put(place / "out.png", 1)
    put(place / "set/1.png", 2)
    (place / "set/2.png").symlink_to(place / "out.png")
    source = open_data(place / "set", allow_bad=0.5)
    assert (len(source), len(source.report["skipped"])) == (1, 1)


@claim(PICTURES, "Captions are UTF-8, or begin with the mark of UTF-8, UTF-16 or UTF-32.")
def _encodings(place: Path) -> None:
    for i, coding in enumerate(("utf-8", "utf-8-sig", "utf-16", "utf-32")):
        put(place / f"{i}.png", i)
        (place / f"{i}.txt").write_bytes("naïve\n 猫".encode(coding))
    source = open_data(place)
    assert {source.text(i) for i in range(4)} == {"naïve 猫"}


@claim(PICTURES, "Copies byte for byte, one picture under two labels")
def _copies(place: Path) -> None:
    for name in ("a/1.png", "a/2.png", "b/3.png"):
        put(place / name, 7)
    said = " ".join(open_data(place).report["warnings"])
    assert "cop" in said.lower()
    assert "label" in said


# ---- texts ----


@claim(PICTURES, "sfumato data poems.txt:window=256")
def _windows(place: Path) -> None:
    (place / "p.txt").write_text("one two three\nfour five six\n")
    assert len(open_data(f"{place / 'p.txt'}")) == 2
    texts = open_data(f"{place / 'p.txt'}:window=10")
    rows = [texts.text(i) for i in range(len(texts))]
    assert " ".join(rows) == "one two three four five six"
    assert max(map(len, rows)) <= 10


@claim(PICTURES, "`.txt.gz`, `.csv.gz` and `.jsonl.gz` are unpacked on the way")
def _packed(place: Path) -> None:
    (place / "p.txt.gz").write_bytes(gzip.compress(b"a\nb\n"))
    assert len(open_data(place / "p.txt.gz")) == 2


@claim(PICTURES, "sfumato data emoji:food+captions")
def _captions(place: Path) -> None:
    assert list(open_data("emoji:food+captions").captions()) == list(open_data("emoji:food").captions())


# ---- masks ----


@claim(EDIT, "Everything outside of it is returned as it came, pixel by pixel, transparency")
def _edit(place: Path) -> None:
    for i in range(4):
        put(place / f"set/{i}.png", i, width=16)
    train = ("train", "ddpm", place / "set", "--out", place / "run", "--size", "xs", "--side", 16, "--steps", 1)
    assert told(*train, "--score", 0)[0] == 0
    put(place / "p.png", 9, width=40, height=24, mode="RGBA")
    mask = Image.new("L", (40, 24), 0)
    mask.paste(255, (10, 5, 18, 13))
    mask.save(place / "m.png")
    edit = ("edit", place / "run", place / "p.png", "--mask", place / "m.png", "--steps", 1, "--out", place / "o")
    code, said = told(*edit)
    assert code == 0, said
    before, after = (np.asarray(Image.open(place / name).convert("RGBA")) for name in ("p.png", "o/0.png"))
    hole = np.asarray(mask) > 127
    assert before.shape == after.shape
    assert (before[~hole] == after[~hole]).all()
    Image.new("L", (39, 24), 0).save(place / "m.png")
    code, said = told(*edit)
    assert code != 0
    assert "same" in said or "own width and height" in said


@claim(SAMPLE, "A number is a name where any class is called by one (`2.0` is `2`)")
def _numbers(place: Path) -> None:
    for name in ("2", "10"):
        for i in range(3):
            put(place / f"set/{name}/{i}.png", i, width=8)
    how = ("--size", "xs", "--side", 8, "--steps", 1, "--score", 0)
    assert told("train", "ddpm", place / "set", "--out", place / "run", *how)[0] == 0
    sample = ("sample", place / "run", "--steps", 1, "--out", place / "o.png")
    assert told(*sample, "--label", "2.0")[0] == 0
    assert told(*sample, "--label", "1")[0] == 2  # a name or an index: not said which


@claim(TRAIN, "Classes go by their names: one that both sets have keeps what was learned of it")
def _tuned(place: Path) -> None:
    for name, classes in (("a", ("ant", "bee")), ("b", ("bee", "cow"))):
        for kind in classes:
            for i in range(3):
                put(place / name / kind / f"{i}.png", i, width=8)
    how = ("--size", "xs", "--side", 8, "--steps", 1, "--score", 0)
    assert told("train", "vit", place / "a", "--out", place / "run", *how)[0] == 0
    code, said = told("train", "vit", place / "b", "--out", place / "on", "--from", f"all={place / 'run'}", *how[4:])
    assert code == 0, said
    assert "1 classes go on by their names, 1 begin anew (cow), 1 are left behind (ant)" in said


def main() -> int:
    wrong = 0
    for page, words, attempt in CLAIMS:
        if words not in (DOCS / page).read_text(encoding="utf-8"):
            print(f"{page} no longer says: {words}")
            wrong += 1
            continue
        with tempfile.TemporaryDirectory() as scratch:
            try:
                attempt(Path(scratch))
            except (AssertionError, SfumatoError, OSError, ValueError) as error:
                print(f"{page}: {words}\n    does not hold: {type(error).__name__} {error} ({attempt.__name__})")
                wrong += 1
    print(f"{len(CLAIMS) - wrong} of {len(CLAIMS)} claims hold.")
    return wrong


if __name__ == "__main__":
    sys.exit(main())
