"""Sets of text: which rows a file gives, value by value; what is skipped and why; memory; the laws of every set."""

from __future__ import annotations

import gzip
import json
import os
import random
import subprocess
import sys
import unicodedata

import numpy as np
import pytest
import torch
from PIL import Image

from sfumato.core.errors import DataError, UnknownName, UsageError
from sfumato.data import Batches, Source, Texts, open_data
from sfumato.data.captions import LONGEST, clean
from sfumato.data.told import told
from sfumato.data.windows import cuts

TABLE = 'Label;TEXT\nb;"two\nlines; yes"\na;plain\n;\nb;"he said ""so"""\n'


def put(path, data):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return path


def rows(source):
    return list(source.captions())


def skipped(source):
    return {bad["file"]: bad["reason"] for bad in source.report["skipped"]}


def warned(source, *words):
    return any(all(word in warning for word in words) for warning in source.report["warnings"])


def lines(n, seed=0):
    draw = random.Random(seed)
    words = ["sfumato", "light", "Ton", "größe", "猫", "café", "a", "shadow", "👩‍👧", "edge"]
    return [f"{i} " + " ".join(draw.choices(words, k=draw.randint(1, 12))) for i in range(n)]


# ---- rows ----


def test_a_line_is_a_row(tmp_path):
    data = put(tmp_path / "a.txt", "one\r\n\n  two \t words\x07\n   \nthrée\u0301\n7\nlast, without an end")
    source = open_data(data)
    assert rows(source) == [
        "one",
        "two words",
        unicodedata.normalize("NFC", "thrée\u0301"),
        "7",
        "last, without an end",
    ]
    assert (len(source), source.channels, source.side, source.entries) == (5, 0, 0, ("text",))
    assert (source.has_text, source.labels, source.origin) == (True, None, data)
    assert source.report["characters"] == {"total": sum(map(len, rows(source))), "mean": 7.6, "longest": 20}
    assert (source.report["texts"], source.report["images"], source.report["empty"]) == (5, 0, 2)
    batch = source.batch([4, 0])
    assert (batch["text"], batch["index"].tolist(), set(batch)) == (
        ["last, without an end", "one"],
        [4, 0],
        {"text", "index"},
    )
    assert source.item(1) == {"text": "two words", "index": torch.tensor(1)}
    assert source.text(0, choice=5) == "one"


def test_a_long_line_is_cut_at_white_space(tmp_path):
    long = " ".join(f"word{i}" for i in range(1000))
    source = open_data(put(tmp_path / "a.txt", f"before\n{long}\nafter\n"))
    assert rows(source)[0], rows(source)[-1] == ("before", "after")
    assert " ".join(rows(source)[1:-1]) == long
    assert all(LONGEST - 10 < len(text) <= LONGEST for text in rows(source)[1:-2])


def test_a_line_without_end_or_white_space(tmp_path):
    """Of 300,000 characters of three bytes each, which no piece that is read at once ends between."""
    source = open_data(put(tmp_path / "a.txt", "a" + "猫" * 300_000))
    assert "".join(rows(source)) == "a" + "猫" * 300_000
    assert {len(text) for text in rows(source)} == {LONGEST, 1}


@pytest.mark.parametrize("window", [1, 7, 40, 256, 5000])
def test_windows_joined_are_the_text(tmp_path, window):
    text = "\n".join(lines(400)) + "\n\n   \t\n" + " " * 3000 + "end"
    whole, _ = clean(text, 10**9)
    source = open_data(f"{put(tmp_path / 'a.txt', text)}:window={window}")
    assert max(map(len, rows(source))) <= window
    if window >= 10:  # no word is longer, so no cut was hard
        assert " ".join(rows(source)) == whole
        longer = [len(a) + 1 + len(b.split()[0]) for a, b in zip(rows(source), rows(source)[1:])]
        assert min(longer) > window  # none could have held one word more
    assert "".join(rows(source)).replace(" ", "") == whole.replace(" ", "")


def test_a_window_goes_over_lines(tmp_path):
    put(tmp_path / "a.txt", "to be or\nnot to be\n\n\tthat is\r\nthe question")
    assert rows(open_data(f"{tmp_path}/a.txt:window=12")) == ["to be or not", "to be that", "is the", "question"]
    assert rows(open_data(f"{tmp_path}:window=12")) == ["to be or not", "to be that", "is the", "question"]
    for query in ("window=0", "window=x", "window", "window=70000"):
        with pytest.raises(UsageError, match="1 to 65,536"):
            open_data(f"{tmp_path}/a.txt:{query}")
    with pytest.raises(UnknownName, match="'window'"):
        open_data(f"{tmp_path}/a.txt:windw=3")


@pytest.mark.parametrize("joined", ["q\u0301", "👍🏽", "👩\u200d👧", "❤\ufe0f", "\u1112\u1161\u11ab"])
@pytest.mark.parametrize("before", range(4))
def test_a_hard_cut_leaves_together_what_belongs_together(joined, before):
    text = "x" * before + joined * 20
    found = [text[start:end] for start, end in cuts(text, 8)]
    assert "".join(found) == text
    assert max(map(len, found)) <= 8
    assert {window[0] for window in found} <= {"x", joined[0]}


def test_forms_that_grow_when_they_are_composed(tmp_path):
    """U+0958 has no composed form: it becomes two characters, and a window of 10 holds five of them."""
    source = open_data(f"{put(tmp_path / 'a.txt', 'क़' * 40)}:window=10")
    assert "".join(rows(source)) == unicodedata.normalize("NFC", "क़" * 40)
    assert max(map(len, rows(source))) <= 10


@pytest.mark.parametrize(
    ("name", "content", "expected", "labels"),
    [
        ("a.csv", TABLE, ["two lines; yes", "plain", 'he said "so"'], [1, 0, 1]),
        ("a.csv", TABLE.replace(";", ","), ["two lines, yes", "plain", 'he said "so"'], [1, 0, 1]),
        ("a.tsv", TABLE.replace(";", "\t"), ["two lines yes", "plain", 'he said "so"'], [1, 0, 1]),
        ("a.csv", "caption\none\n\n2\n", ["one", "2"], None),
        ("a.jsonl", '{"text": "x y"}\n\n{"Text": ["p", " ", "q"], "label": 3}\n', ["x y", "p", "q"], None),
        (
            "a.jsonl",
            '{"prompt": 7.5, "cls": 10}\n{"prompt": "\\ud83d\\ude00\\ud83d", "cls": 9}',
            ["7.5", "😀?"],
            [1, 0],
        ),
    ],
)
def test_tables(tmp_path, name, content, expected, labels):
    for path in (put(tmp_path / name, content), put(tmp_path / f"{name}.gz", gzip.compress(content.encode()))):
        source = open_data(path)
        assert rows(source) == expected
        assert (source.batch(range(len(source)))["label"].tolist() if source.labels else None) == labels
        assert source.entries == (("label",) * bool(labels) + ("text",))


def test_parquet(tmp_path):
    pa = pytest.importorskip("pyarrow", reason="the extra `data`")
    import pyarrow.parquet as pq

    pq.write_table(
        pa.table({"id": [1, 2, 3], "Text": ["eins", None, "drei"], "label": [2, 0, 10]}), tmp_path / "a.parquet"
    )
    source = open_data(tmp_path / "a.parquet")
    assert (rows(source), source.labels, source.label(1)) == (["eins", "drei"], ["2", "10"], 1)
    assert rows(open_data(tmp_path)) == rows(open_data(f"{tmp_path}/*.parquet")) == ["eins", "drei"]
    assert rows(open_data(f"{tmp_path}/a.parquet:window=20")) == ["eins drei"]
    (tmp_path / "a.parquet").write_bytes((tmp_path / "a.parquet").read_bytes()[:-20])
    with pytest.raises(DataError):
        open_data(tmp_path / "a.parquet")


# ---- bytes ----


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "a.csv", "a.txt.gz"])
def test_encodings(tmp_path, encoding, name):
    texts = ["一只红色的苹果", "👩‍👩‍👧 家庭", "Bär café", "x" * 3000]
    content = {
        "a.jsonl": "".join(json.dumps({"text": t}, ensure_ascii=False) + "\n" for t in texts),
        "a.csv": "text\n" + "\n".join(texts),
    }.get(name, "\r\n".join(texts))
    data = unicodedata.normalize("NFD", content).encode(encoding)
    source = open_data(put(tmp_path / name, gzip.compress(data) if name.endswith("gz") else data))
    assert rows(source) == [*texts[:3], "x" * LONGEST, "x" * 1000]
    assert source.report["warnings"] == []


@pytest.mark.parametrize(
    ("name", "head", "line", "where"),
    [
        ("a.txt", b"", b"line %d\n", 3),
        ("a.csv", b"text\n", b"line %d\n", 4),
        ("a.jsonl", b"", b'{"text": "line %d"}\n', 3),
    ],
)
def test_other_bytes_are_skipped_up_to_a_part(tmp_path, name, head, line, where):
    good = [line % i for i in range(100)]
    good[2] = good[2].replace(b"line", b"caf\xe9")
    good[50] = good[50].replace(b"line", b"z\0ro")
    put(tmp_path / name, head + b"".join(good))
    source = open_data(tmp_path / name)
    assert rows(source) == [f"line {i}" for i in range(100) if i not in (2, 50)]
    assert skipped(source) == {f"{name}:{where}": "not UTF-8 text", f"{name}:{where + 48}": "zero bytes, so no text"}
    assert source.report["bad"] == 2
    with pytest.raises(DataError, match=r"2 of 100 rows cannot be used .*1 not UTF-8 text"):
        open_data(tmp_path / name, allow_bad=0.01)
    if name == "a.txt":
        joined = rows(open_data(f"{tmp_path}/a.txt:window=10000"))
        assert joined == [" ".join(rows(source)[a:b]) for a, b in ((0, 2), (2, 49), (49, 98))]


def test_a_file_in_latin_1_is_refused_and_a_thousand_rows_are_named(tmp_path):
    put(tmp_path / "a.txt", b"caf\xe9\n" * 5000 + b"good\n")
    with pytest.raises(DataError, match="5000 of 5001 rows"):
        open_data(tmp_path / "a.txt")
    source = open_data(tmp_path / "a.txt", allow_bad=1.0)
    assert (rows(source), source.report["bad"], len(source.report["skipped"])) == (["good"], 5000, 1000)


def test_broken_lines_of_tables(tmp_path):
    content = ["[1, 2]", '{"text": "ha', '{"text": "x", "label": [1.5]}', '{"text": {"a": 1}}', "[" * 100_000]
    content += [json.dumps({"text": f"t{i}"}) for i in range(95)]
    source = open_data(put(tmp_path / "a.jsonl", "\n".join(content)))
    assert skipped(source) == {
        "a.jsonl:1": "line is no JSON object",
        "a.jsonl:2": "line is not JSON",
        "a.jsonl:3": "label is neither a word nor a whole number",
        "a.jsonl:5": "line is not JSON",
    }
    assert (len(source), source.report["empty"]) == (95, 1)
    source = open_data(put(tmp_path / "a.csv", "text,label\na,b,c\n" + "x,y\n" * 30))
    assert skipped(source) == {"a.csv:2": "line has too many fields"}


@pytest.mark.parametrize(
    ("name", "data", "words"),
    [
        ("a.txt", b"", "has no rows"),
        ("a.txt", b"\n \n\t\n", "has no rows, but 3 empty lines"),
        ("a.jsonl", b"", "has no rows"),
        ("a.csv", b"text\n", "has no rows"),
        ("a.csv", b"", "no column of texts"),
        ("a.csv", b"sentence,id\nx,1\n", "no column of texts .* but sentence, id"),
        ("a.jsonl", b'{"body": "x"}\n', "no column of texts .* but body"),
        ("a.txt.gz", gzip.compress(b"abc\n" * 99)[:-12], "ends too early"),
        ("a.txt.gz", gzip.compress(bytes(20_000_000)), "shrank more than 100 times"),
        ("a.csv", b'text\n"' + b"x" * 200_000, "a.csv"),
        ("a.txt", b"\x89PNG\0\0\0\0", "one picture"),
    ],
)
def test_what_is_refused_says_why(tmp_path, name, data, words):
    with pytest.raises(DataError, match=words):
        open_data(put(tmp_path / name, data))


def test_what_is_no_regular_file(tmp_path):
    os.mkfifo(tmp_path / "pipe.txt")
    put(tmp_path.parent / "secret.txt", "secret")
    (tmp_path / "out.txt").symlink_to(tmp_path.parent / "secret.txt")
    put(tmp_path / "a.txt", "one\n" * 100)
    source = open_data(tmp_path)
    assert skipped(source) == {"out.txt": "link out of the folder", "pipe.txt": "not a regular file"}
    with pytest.raises(DataError, match="regular"):
        open_data(tmp_path / "pipe.txt")


def test_doubts(tmp_path):
    source = open_data(put(tmp_path / "a.txt", "x\ny\nx\n  x \n"))
    assert warned(source, "2 of 4 texts are copies")
    assert warned(open_data(put(tmp_path / "n.csv", "text\n1\n2.5\n-3\n")), "Every row of n.csv is a number")
    assert warned(open_data(tmp_path / "a.txt", side=8), "no pictures")
    assert not warned(open_data(tmp_path / "a.txt", background="#ffffff"), "no pictures")
    source = open_data(put(tmp_path / "l.csv", "text,label\nx,a\ny,b\nz,\n"))
    assert (source.labels, warned(source, "1 of 3 texts have no label")) == (None, True)


# ---- folders ----


def picture(path, seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(path)


def test_a_folder_of_texts(tmp_path):
    put(tmp_path / "b" / "2.txt", "b2")
    put(tmp_path / "a.jsonl", '{"text": "a"}')
    put(tmp_path / "c.csv", "text\nc")
    for name in ("README.txt", "LICENSE", "notes.md", "empty.txt"):
        put(tmp_path / name, "" if name == "empty.txt" else "about")
    source = open_data(tmp_path)
    assert rows(source) == ["a", "b2", "c"]
    assert skipped(source) == {
        "LICENSE": "no file of texts",
        "README.txt": "no file of texts",
        "notes.md": "no file of texts",
        "empty.txt": "has no rows",
    }
    assert list(source.files) == ["a.jsonl", "b/2.txt", "c.csv"]
    assert rows(open_data(f"{tmp_path}/*.jsonl")) == ["a"]


@pytest.mark.parametrize("layout", ["{}.txt", "{}/x.txt", "{}-00000-of-00001.txt", "data/{}_1.txt"])
def test_parts_of_texts(tmp_path, layout):
    for part in ("Training", "test", "dev"):
        put(tmp_path / layout.format(part), f"of {part}")
    assert [rows(open_data(tmp_path, split=s)) for s in ("train", "test", "valid")] == [
        ["of Training"],
        ["of test"],
        ["of dev"],
    ]
    assert sorted(rows(open_data(tmp_path, split="all"))) == ["of Training", "of dev", "of test"]
    assert ("held out", "test (1), valid (1)") in told(open_data(tmp_path))


def test_a_file_has_no_parts(tmp_path):
    put(tmp_path / "train.txt", "x"), put(tmp_path / "b" / "b.txt", "x")
    for path in (tmp_path / "train.txt", tmp_path / "b"):
        with pytest.raises(UnknownName, match="no part called 'test'"):
            open_data(path, split="test")


def test_a_folder_with_pictures_is_one_of_pictures(tmp_path):
    for i in range(3):
        picture(tmp_path / f"{i}.png", i)
        put(tmp_path / f"{i}.txt", f"caption {i}")
    put(tmp_path / "more.jsonl", '{"text": "x"}')
    source = open_data(tmp_path)
    assert isinstance(source, Source)
    assert (rows(source), source.entries) == ([f"caption {i}" for i in range(3)], ("image", "text"))
    with pytest.raises(UnknownName, match="has no setting 'window=3'"):
        open_data(f"{tmp_path}:window=3")
    for i in range(3):
        (tmp_path / f"{i}.png").unlink()
    put(tmp_path / "bare", b"\x89PNG\r\n\x1a\n")
    with pytest.raises(DataError, match="0 usable"):  # a damaged picture is a picture
        open_data(tmp_path)
    (tmp_path / "bare").unlink()
    assert isinstance(open_data(tmp_path), Texts)


def test_metadata_alone_is_no_set_of_texts(tmp_path):
    put(tmp_path / "metadata.jsonl", '{"file_name": "a.png", "text": "x"}')
    with pytest.raises(DataError):
        open_data(tmp_path)


# ---- what is said of pictures ----


@pytest.mark.parametrize("query", ["emoji", "emoji:food+3d", "emoji:food+zh+en", "scenes:n=50+varied"])
def test_captions_of_embedded_sets(query):
    source = open_data(query)
    texts = open_data(query + ("+" if ":" in query else ":") + "captions")
    assert isinstance(texts, Texts)
    assert rows(texts) == rows(source)
    assert [texts.text(3, c) for c in range(4)] == [source.text(3, c) for c in range(4)]
    assert (texts.labels, texts.label(3)) == (source.labels, source.label(3))
    assert texts.origin.endswith("captions")
    assert "image" not in texts.batch([0])


def test_captions_of_a_folder_open_no_picture(tmp_path):
    for i in range(4):
        put(tmp_path / ("cat" if i % 2 else "dog") / f"{i}.png", b"not decoded")
        put(tmp_path / ("cat" if i % 2 else "dog") / f"{i}.txt", f"caption\n{i}" if i else "")
    for asked in (f"{tmp_path}/:captions", f"{tmp_path}:captions"):
        texts = open_data(asked)
        assert rows(texts) == ["caption 1", "caption 3", "caption 2"]
        assert (texts.labels, texts.batch([0, 2])["label"].tolist()) == (["cat", "dog"], [0, 1])
        assert texts.report["empty"] == 1
    before = texts.fingerprint
    put(tmp_path / "cat" / "1.txt", "caption 1!")
    assert open_data(f"{tmp_path}:captions").fingerprint != before
    with pytest.raises(DataError, match="no captions"):
        open_data("digits:captions")
    with pytest.raises(UsageError, match="set of texts"):
        open_data(f"{put(tmp_path / 't' / 'a.txt', 'x')}:captions")


def test_captions_of_metadata_take_turns(tmp_path):
    said = []
    for i in range(3):
        picture(tmp_path / f"{i}.png", i)
        said.append(json.dumps({"file_name": f"{i}.png", "text": [f"a{i}", f"b{i}"]}))
    put(tmp_path / "metadata.jsonl", "\n".join(said))
    source, texts = open_data(tmp_path), open_data(f"{tmp_path}:captions")
    assert rows(texts) == rows(source) == ["a0", "a1", "a2"]
    assert texts.batch([2, 0], choice=[1, 2])["text"] == ["b2", "a0"]


# ---- the laws ----


def test_subsets(tmp_path):
    source = open_data(put(tmp_path / "a.csv", "text,label\n" + "".join(f"t{i},{'ab'[i % 2]}\n" for i in range(10))))
    part = source.subset([7, 2, 2])
    assert (rows(part), part.batch([0, 1])["label"].tolist()) == (["t7", "t2", "t2"], [1, 0])
    assert part.report["texts"] == 3
    assert part.report["labels"] == {"a": 2, "b": 1}
    assert part.report["of"] == 10
    assert len({source.fingerprint, part.fingerprint, source.subset(range(10)).fingerprint}) == 2
    with pytest.raises(IndexError):
        source.subset([10])


def test_the_fingerprint_is_of_the_content(tmp_path):
    path = put(tmp_path / "a.txt", "one\ntwo\n")
    print_ = open_data(path).fingerprint
    os.utime(path, (1, 1))
    assert open_data(path).fingerprint == print_
    os.rename(path, tmp_path / "b.txt")
    assert open_data(tmp_path / "b.txt").fingerprint == print_
    assert open_data(put(tmp_path / "c" / "c.txt", "one\r\n\ntwo")).fingerprint == print_  # the rows are the same
    others = {
        open_data(put(path, text)).fingerprint for text in ("one\ntwe\n", "two\none\n", "one two\n", "one\ntwo\ntwo")
    }
    others |= {open_data(f"{tmp_path}/b.txt:window=9").fingerprint}
    assert len(others | {print_}) == 6 - 1  # the window's only row is "one two"
    a, b = (open_data(put(tmp_path / "l.csv", f"text,label\nx,{k}\ny,2")).fingerprint for k in (1, 3))
    assert a != b


def test_a_file_that_changes_under_us(tmp_path):
    path = put(tmp_path / "a.txt", "one\ntwo\n")
    source = open_data(path)
    os.utime(path, (1, 1))
    assert rows(source) == ["one", "two"]  # another date is no other content
    put(path, "one\ntoo\n")
    os.utime(path, (2, 2))
    with pytest.raises(DataError, match="has changed since"):
        source.text(1)
    path.unlink()
    with pytest.raises(DataError, match="no longer there"):
        source.text(0)


def test_batches_of_texts(tmp_path):
    source = open_data(put(tmp_path / "a.txt", "\n".join(lines(50))))
    straight = [Batches(source, 8, seed=1, flip=True).at(k)["text"] for k in range(15)]
    fresh = Batches(source, 8, seed=1, flip=True)
    assert all(fresh[k]["text"] == straight[k] for k in (14, 5, 6, 7, 0))
    assert sorted([text for texts in straight for text in texts][:50]) == sorted(rows(source))
    shares = [Batches(source, 8, seed=1, rank=r, world=2) for r in range(2)]
    assert shares[0][3]["text"] + shares[1][3]["text"] == straight[3]


MEASURE = """
import resource, sys
from sfumato.data import open_data
open_data(sys.argv[1])  # what is imported on the way
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
source = open_data(sys.argv[2])
print(1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before), len(source), source.text(len(source) - 1))
"""


@pytest.mark.parametrize("name", ["a.txt", "a.csv"])
def test_memory_is_flat(tmp_path, name):
    """40 MB of 400,000 rows: at most 40 bytes a row and 8 MB more than before, though they are all read."""
    n, big = 400_000, tmp_path / name
    with open(big, "w") as file:
        file.write("text\n" if name == "a.csv" else "")
        file.writelines(f"{i} {'abcdefgh ' * 11}\n" for i in range(n))
    assert big.stat().st_size > 40e6
    small = put(tmp_path / "small" / name, "text\nx\n")
    run = [sys.executable, "-c", MEASURE, str(small), str(big)]
    grown, count, last = subprocess.run(run, capture_output=True, text=True, check=True).stdout.split()[:3]
    assert (int(count), last) == (n, "399999")
    assert int(grown) < 40 * n + 8e6


# ---- the command line ----


def test_the_screen(tmp_path):
    source = open_data(put(tmp_path / "a.csv", "text,label\n" + "word " * 60 + ",a\ny,b\n,b\n"))
    shown = dict(told(source))
    assert shown["texts"] == "2, like “" + ("word " * 60)[:120] + " …”"
    assert shown["characters"] == "300, 150.0 a text; the longest has 299"
    assert (shown["labels"], shown["empty rows"]) == ("a (1), b (1)", "1, left out")
    assert "pictures" not in shown


def test_sfumato_data_of_texts(tmp_path):
    put(tmp_path / "a.txt", b"one\ncaf\xe9\n")
    run = [sys.executable, "-m", "sfumato", "data", str(tmp_path / "a.txt"), "--json", "--allow-bad"]
    done = subprocess.run([*run, "0.5"], capture_output=True, text=True, check=False)
    report = json.loads(done.stdout)
    assert (done.returncode, report["texts"], report["images"], report["bad"]) == (0, 1, 0, 1)
    assert report["skipped"] == [{"file": "a.txt:2", "reason": "not UTF-8 text"}]
    done = subprocess.run([*run, "0.1"], capture_output=True, text=True, check=False)
    assert (done.returncode, "1 of 2 rows" in done.stderr) == (3, True)
