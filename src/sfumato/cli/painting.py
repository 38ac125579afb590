"""The verb that repaints a part of a picture: edit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jsonargparse import Namespace

from sfumato.cli.console import note, progress, say_json
from sfumato.cli.parser import Parser, Verb, Words
from sfumato.cli.runs import conditions, image_space, open_run, tell_written, write_pictures
from sfumato.cli.sampler import add_condition, add_run, add_sampler, check_counts, drawn_facts, options_of
from sfumato.core.errors import DataError


def _edit_options(parser: Parser, words: Words) -> None:
    add_run(parser)
    parser.add_argument("image", type=str, help="the picture to change, of any size")
    parser.add_argument(
        "--mask",
        type=str,
        required=True,
        help="a picture of the same width and height (or of the run's): light, or transparent, where to repaint",
    )
    add_condition(parser)
    parser.add_argument("-n", "--number", type=int, default=1, help="how many versions")
    add_sampler(parser)
    parser.add_argument("--out", type=str, default="edited.png", help="a folder, or one grid, .png or .jpg")
    parser.add_seed()
    parser.add_device()
    parser.add_json()


def edit(args: Namespace) -> None:
    import torch

    from sfumato.data import masks
    from sfumato.data.fit import fit
    from sfumato.report import pictures

    n = args.number
    check_counts(number=n, steps=args.steps, batch=args.batch)
    system = open_run(args.run, args.device, "draws")
    channels, side = image_space(system)[0], image_space(system)[-1]
    picture, mask = _layered(args.image), _layered(args.mask)
    hole, rule = masks.hole_of(mask, picture, side, args.mask)
    place = masks.window(hole)
    left, top, size = place
    seen = _flat(picture, channels).crop((left, top, left + size, top + size))
    image = torch.from_numpy(fit(seen, side).copy()).float()[None] / 127.5 - 1
    _say(args, picture, place, side, rule)
    given, prompts = conditions(system, args.run, args.text, args.label, n)
    seeds = list(range(args.seed, args.seed + n))
    with progress("Painting") as watch:
        painted = system.edit(
            image.expand(n, -1, -1, -1),
            torch.from_numpy(masks.reduced(hole, place, side))[None, None],
            given or None,
            guidance=args.guidance,
            seeds=seeds,
            batch=args.batch,
            watch=watch,
            **options_of(args),
        )
    images = [masks.put_back(picture, pictures.picture(one), hole, place) for one in painted]
    facts = [{**fact, "source": args.image, "mask": rule} for fact in drawn_facts(args, system, seeds, prompts)]
    written = write_pictures(images, args.out, [str(seed) for seed in seeds], facts, prompts)
    if args.json:
        say_json({"run": args.run, "written": written, "images": facts})
    else:
        tell_written(written, args.out)


def _layered(path: str) -> Any:
    from sfumato.data.decode import layered, read

    if not Path(path).exists():
        raise DataError(f"There is no picture at {path}.")
    return layered(read(path), path)


def _flat(picture: Any, channels: int) -> Any:
    """The picture as the system sees it: its transparency on white, in the system's channels."""
    from sfumato.data.decode import opaque

    return opaque(picture, "the picture", channels, "white")


def _say(args: Namespace, picture: Any, place: tuple[int, int, int], side: int, rule: str) -> None:
    """How the mask was read, and what was changed so that the run could see the picture."""
    note(f"Of {args.mask}, {rule}.")
    left, top, size = place
    if picture.size != (side, side):
        note(
            f"{args.image} is {picture.width}×{picture.height}; the run paints {side}×{side}, so a square of {size} "
            f"pixels at ({left}, {top}) is seen at that size, and what is painted is brought back to it."
        )


PAINTING = [
    Verb(
        "edit",
        "RUN IMAGE --mask MASK",
        "Repaint a part of a picture, and leave the rest as it is.",
        'sfumato edit runs/emoji face.png --mask mouth.png --text "a smiling face" -n 4 --out faces.png',
        _edit_options,
        edit,
    ),
]
