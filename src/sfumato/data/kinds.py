"""What a file among pictures is: a picture, what is said of one, a table, a companion, or a picture that is not opened.

companions     what cameras, phones and editors leave beside a picture: films, .AAE, .xmp, .THM, raw files beside
               their JPEG, Takeout's a.jpg.json and a.jpg.supplemental-metadata.json. They are listed as skipped and
               count as nothing bad
maps           pictures that belong to another: a.seg.png beside a.jpg (a webdataset sample of several pictures),
               a_mask.png beside a.jpg, masks/a.png beside images/a.jpg, train_masks/a.png beside train_images/a.jpg.
               They are left aside, and it is said
boxes          a .txt of which every line is a class and four or more numbers (YOLO) is no caption
"""

from __future__ import annotations

import os
import re
from collections import defaultdict

from sfumato.core.errors import ImageError
from sfumato.data.decode import FORMATS
from sfumato.data.listing import Entry

PICTURES = {".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".gif", ".bmp", ".dib", ".tif", ".tiff"}
PICTURES |= {".avif"} if "AVIF" in FORMATS else set()
HEIC = {".heic", ".heif", ".hif"}
SIDECARS = (".txt", ".caption", ".cls", ".json")
PLAIN = {
    *SIDECARS, ".md", ".rst", ".csv", ".tsv", ".jsonl", ".parquet", ".pdf", ".html", ".htm", ".xml", ".yaml", ".yml",
    ".toml", ".ini", ".cfg", ".log", ".py", ".sh", ".npy", ".npz", ".safetensors", ".zip", ".tar", ".gz", ".7z", ".rar",
    ".bak", ".db", ".lock", ".url", ".lnk", ".info", ".sqlite",
}  # fmt: skip
FILMS = {".mov", ".mp4", ".m4v", ".avi", ".3gp", ".mts", ".mkv", ".webm", ".lrv", ".mp3", ".wav", ".m4a", ".aac"}
EDITS = {".aae", ".xmp", ".thm", ".dop", ".pp3", ".on1", ".cos", ".nksc", ".arp", ".vrd", ".rmd", ".gpx", ".moi"}
RAW = {".cr2", ".cr3", ".nef", ".nrw", ".arw", ".dng", ".orf", ".rw2", ".raf", ".pef", ".srw", ".raw", ".x3f"}
METADATA = (".json", ".jsonl", ".csv", ".tsv", ".parquet", ".xml", ".yaml", ".yml")
MAPS = {
    "mask", "masks", "seg", "segs", "segmentation", "segmentations", "segmap", "label", "labels", "labelids",
    "instanceids", "segmentationclass", "segmentationobject",
    "annotation", "annotations", "depth", "depths", "matte", "mattes", "alpha", "gt", "groundtruth",
}  # fmt: skip
MAGIC = (b"\x89PNG", b"\xff\xd8\xff", b"GIF8", b"RIFF", b"BM", b"II*\0", b"MM\0*")
SNIFFED = 64 * 2**20  # bytes of a file without a known suffix, beyond which it is not looked into
_BOX = re.compile(r"\d+(\s+-?\d*\.?\d+([eE][-+]?\d+)?){4,}")


def looks_like_a_picture(entry: Entry) -> bool:
    try:
        return entry.read(SNIFFED).startswith(MAGIC)
    except ImageError:
        return False


def named_as_a_picture(path: str) -> bool:
    return os.path.splitext(path)[1].lower() in PICTURES | HEIC | RAW


def may_be_read(path: str, start: bytes) -> bool:
    """Whether a member of an archive is worth reading beyond its first bytes: a picture, or what is said of one."""
    suffix = os.path.splitext(path)[1].lower()
    if suffix in (*SIDECARS, *METADATA) or start[4:12].startswith(b"ftyp"):
        return True
    return start.startswith(MAGIC)


def are_boxes(text: str) -> bool:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return bool(lines) and all(_BOX.fullmatch(line) for line in lines)


def maps_among(pictures: list[Entry]) -> set[Entry]:
    """The pictures that belong to another one of these."""
    stems = {(entry.shard, entry.stem.casefold()) for entry in pictures}
    found = set()
    named: dict[tuple[str, str, str], dict[str, list[Entry]]] = defaultdict(lambda: defaultdict(list))
    for entry in pictures:
        folder, _, name = entry.stem.casefold().rpartition("/")
        before, dot, inner = name.partition(".")
        if dot and inner and (entry.shard, f"{folder}/{before}" if folder else before) in stems:
            found.add(entry)  # a.seg.png of a.jpg
        head, tail = _last_word(name)
        if head and tail in MAPS and (entry.shard, f"{folder}/{head}" if folder else head) in stems:
            found.add(entry)  # a_mask.png of a.jpg
        above, _, own = folder.rpartition("/")
        named[entry.shard, above, name][own].append(entry)
    for beside in named.values():
        heads = [head for own in beside for head in {own, _last_word(own)[0]} if head]
        words = {own: _last_word(own) for own in beside}
        of = {own for own, (head, last) in words.items() if last in MAPS and (not head or heads.count(head) > 1)}
        if of and set(beside) - of:
            found |= {entry for own in of for entry in beside[own]}  # masks/a.png of images/a.jpg
    return found


def _last_word(name: str) -> tuple[str, str]:
    """("train", "masks") of train_masks, train-masks or "train masks"; ("", "masks") of masks."""
    *before, last = re.split(r"[_\- ]", name)
    return name[: len(name) - len(last) - 1] if before else "", last


def companion(entry: Entry, stems: set[tuple[str, str]], paths: set[tuple[str, str]]) -> str | None:
    """Why a file that is no picture is nothing bad; None where it is something else. `stems` and `paths` are those of
    the pictures, folded."""
    if entry.suffix in FILMS:
        return "a film or a sound"
    if entry.suffix in EDITS:
        return "what a camera or an editor keeps beside a picture"
    if entry.suffix in RAW and (entry.shard, entry.stem.casefold()) in stems:
        return "the raw file of a picture beside it"
    before = entry.stem.casefold()
    if entry.suffix == ".json" and any((entry.shard, stem) in paths for stem in (before, before.rpartition(".")[0])):
        return "what an album keeps beside a picture"
    return None


def refusal(entry: Entry) -> str:
    """Why a picture of a format that is not opened is bad."""
    if entry.suffix in RAW:
        return "a raw photograph; export it as JPEG or PNG"
    return "not an image format that is opened"
