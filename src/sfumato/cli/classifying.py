"""The verbs that say what pictures show: classify, embed."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

from jsonargparse import Namespace

from sfumato.cli.console import note, say_json, table
from sfumato.cli.parser import Parser, Verb, Words
from sfumato.cli.runs import open_run, pictures_in, read_pictures, write_pictures
from sfumato.core.classes import class_number
from sfumato.core.errors import UsageError

SHOWN = 20  # pictures that are told on a terminal; the table has all
LARGEST = 400  # pictures in the sheet beside the table
LISTED = 3  # classes of a picture that are told, the likeliest first


# ---- classify ----


def _classify_options(parser: Parser, words: Words) -> None:
    parser.add_argument("run", type=str, help="a run folder, or hub:owner/name")
    parser.add_argument("images", type=str, nargs="+", help="pictures of any size, or folders of them")
    parser.add_argument("--labels", type=str | None, default=None, help="only these, with commas between: cat,dog")
    parser.add_argument(
        "--out", type=str, default="classified.csv", help="the table, .csv or .json; a picture is drawn beside it, .png"
    )
    parser.add_argument("--batch", type=int, default=64, help="pictures at once")
    parser.add_device()
    parser.add_json()


def classify(args: Namespace) -> None:
    place = Path(args.out)
    if place.suffix.lower() not in (".csv", ".json"):
        raise UsageError(f"--out {args.out}: the table ends in .csv or .json; the picture is written beside it.")
    system = open_run(args.run, args.device, "classifies")
    paths = pictures_in(args.images)
    images = read_pictures(paths, system)
    names = system.classes or [str(i) for i in range(system.count)]
    chosen = _chosen(args.labels, system, names)
    p = system.classify(images, args.batch)[:, chosen]
    p = p / p.sum(1, keepdim=True)
    rows = [_row(path, row, [names[i] for i in chosen]) for path, row in zip(paths, p)]
    _write_table(place, rows)
    sheet = str(place.with_suffix(".png"))
    said = [f"{row['label']} {row['probability']:.0%}" for row in rows[:LARGEST]]
    facts = [{"run": args.run, "source": row["file"], "label": row["label"]} for row in rows[:LARGEST]]
    write_pictures(images[:LARGEST], sheet, [], facts, said)
    if args.json:
        say_json({"run": args.run, "written": [args.out, sheet], "images": rows})
        return
    table(("picture", "shows", "sure", "else"), [_told(row) for row in rows[:SHOWN]])
    note(f"Wrote {len(rows)} rows to {args.out}, and the pictures with what they show to {sheet}.")


def _chosen(labels: str | None, system: Any, names: list[str]) -> list[int]:
    """The numbers of the classes that are asked for; all by default."""
    if labels is None:
        return list(range(len(names)))
    said = [word.strip() for word in labels.split(",") if word.strip()]
    if len(said) < 2:
        raise UsageError("--labels takes at least two classes with commas between: what else could it show?")
    return [class_number(word, system.classes, system.count) for word in said]


def _row(path: str, p: Any, names: list[str]) -> dict[str, Any]:
    order = p.argsort(descending=True).tolist()
    best = [{"label": names[i], "probability": round(float(p[i]), 6)} for i in order[:LISTED]]
    return {"file": path, **best[0], "others": best[1:]}


def _told(row: dict[str, Any]) -> tuple[str, str, str, str]:
    others = ", ".join(f"{other['label']} {other['probability']:.1%}" for other in row["others"])
    return row["file"], row["label"], f"{row['probability']:.1%}", others


def _write_table(place: Path, rows: list[dict[str, Any]]) -> None:
    from sfumato.checkpoint import write_file

    if place.suffix.lower() == ".json":
        write_file(place, (json.dumps(rows, indent=1, ensure_ascii=False) + "\n").encode())
        return
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["file", "label", "probability", "second", "second_probability"])
    for row in rows:
        second = row["others"][0] if row["others"] else {"label": "", "probability": ""}
        writer.writerow([row["file"], row["label"], row["probability"], second["label"], second["probability"]])
    write_file(place, file.getvalue().encode())


# ---- embed ----


def _embed_options(parser: Parser, words: Words) -> None:
    parser.add_argument("run", type=str, help="a run folder, or hub:owner/name")
    parser.add_argument("images", type=str, nargs="+", help="pictures of any size, or folders of them")
    parser.add_argument("--out", type=str, required=True, help="a .safetensors file with the tensor `embedding`")
    parser.add_argument("--batch", type=int, default=64, help="pictures at once")
    parser.add_device()
    parser.add_json()


def embed(args: Namespace) -> None:
    from sfumato.checkpoint import write_file
    from sfumato.checkpoint.tensors import encode_tensors

    system = open_run(args.run, args.device, "embeds")
    paths = pictures_in(args.images)
    found = system.embed(read_pictures(paths, system), args.batch).contiguous()
    metadata = {"run": args.run, "images": json.dumps(paths)}
    write_file(Path(args.out), b"".join(bytes(part) for part in encode_tensors({"embedding": found}, metadata)))
    if args.json:
        say_json({"run": args.run, "written": args.out, "shape": list(found.shape), "images": paths})
    else:
        note(f"Wrote {len(found)} vectors of {found.shape[1]} numbers to {args.out}.")


CLASSIFY = Verb(
    "classify",
    "RUN IMAGE…",
    "Say which class each picture shows, in a table and a sheet.",
    "sfumato classify runs/vit photos/ --out what.csv",
    _classify_options,
    classify,
)
EMBED = Verb(
    "embed",
    "RUN IMAGE… --out FILE",
    "Write a vector for each picture to a safetensors file.",
    "sfumato embed runs/vit photos/ --out photos.safetensors",
    _embed_options,
    embed,
)
