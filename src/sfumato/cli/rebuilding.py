"""The verb that sends pictures through the codec and back: reconstruct."""

from __future__ import annotations

from pathlib import Path

from jsonargparse import Namespace

from sfumato.cli.console import say_json, table
from sfumato.cli.parser import Parser, Verb, Words
from sfumato.cli.runs import one_file, open_run, read_pictures, tell_written, write_pictures
from sfumato.cli.sampler import add_run


def _reconstruct_options(parser: Parser, words: Words) -> None:
    add_run(parser)
    parser.add_argument("images", type=str, nargs="+", help="pictures, of any size")
    parser.add_argument(
        "--out", type=str, default="reconstructions.png", help="a folder, or a grid with the errors, .png or .jpg"
    )
    parser.add_device()
    parser.add_json()


def reconstruct(args: Namespace) -> None:
    import torch

    from sfumato.metrics import eight_bit, psnr

    system = open_run(args.run, args.device, "reconstructs")
    before = read_pictures(args.images, system)
    after = system.reconstruct(before).float().cpu()
    quality = psnr(eight_bit(after), eight_bit(before)).tolist()
    facts = [{"run": args.run, "source": path, "psnr": f"{db:.2f}"} for path, db in zip(args.images, quality)]
    if one_file(args.out):
        error = (after - before).abs() - 1  # black where both agree
        rows = torch.stack([before, after, error], 1).flatten(0, 1)
        captions = [text for db in quality for text in ("picture", f"{db:.1f} dB", "error")]
        written = write_pictures(rows, args.out, [], facts, captions, columns=3)
    else:
        written = write_pictures(after, args.out, _names(args.images), facts)
    scores = [{"file": path, "psnr": round(db, 4)} for path, db in zip(args.images, quality)]
    if args.json:
        say_json({"run": args.run, "images": scores, "written": written})
        return
    table(("picture", "PSNR in dB"), [(score["file"], f"{score['psnr']:.2f}") for score in scores])
    tell_written(written, args.out)


def _names(paths: list[str]) -> list[str]:
    """File names for what came from these paths; two of one name are told apart by their place."""
    stems = [Path(path).stem for path in paths]
    return [stem if stems.count(stem) == 1 else f"{stem}-{i}" for i, stem in enumerate(stems)]


RECONSTRUCT = Verb(
    "reconstruct",
    "RUN IMAGE…",
    "Send pictures through the codec and back, and show what was lost.",
    "sfumato reconstruct runs/vqgan cat.jpg dog.png --out there-and-back.png",
    _reconstruct_options,
    reconstruct,
)
