"""The verbs that make pictures larger: extend (beyond the border), upscale (more pixels of the same)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jsonargparse import Namespace

from sfumato.cli.console import note, progress, say_json
from sfumato.cli.parser import Parser, Verb, Words
from sfumato.cli.runs import conditions, image_space, open_run, tell_written, write_pictures
from sfumato.cli.sampler import add_condition, add_run, add_sampler, check_counts, drawn_facts, options_of
from sfumato.core.errors import DataError, Misfit, UsageError


def _open(args: Namespace, verb: str) -> Any:
    system = open_run(args.run, args.device, "draws")
    if not hasattr(system, "codec"):
        raise Misfit(
            f"{args.run} is a cascade: it draws a picture several times, each larger, and has no one latent of which a "
            f"part could be held. {verb} needs a run of a single system, such as ddpm, ldm or gud-wavelet."
        )
    return system


def _picture(path: str, channels: int) -> Any:
    """The picture at the path as PIL has it, upright, in the system's channels."""
    from sfumato.data.decode import picture, read

    if not Path(path).exists():
        raise DataError(f"There is no picture at {path}.")
    return picture(read(path), path, channels, "white")[0]


def _tensor(pixels: Any) -> Any:
    import torch

    return torch.from_numpy(pixels.copy()).float()[None] / 127.5 - 1


def _more_options(parser: Parser, out: str) -> None:
    add_condition(parser)
    parser.add_argument("-n", "--number", type=int, default=1, help="how many versions")
    add_sampler(parser)
    parser.add_argument("--out", type=str, default=out, help="a folder, or one grid, .png or .jpg")
    parser.add_seed()
    parser.add_device()
    parser.add_json()


def _finish(args: Namespace, images: Any, facts: list[dict[str, Any]], prompts: list[str], **more: Any) -> None:
    written = write_pictures(images, args.out, [str(fact["seed"]) for fact in facts], facts, prompts)
    if args.json:
        say_json({"run": args.run, **more, "written": written, "images": facts})
    else:
        tell_written(written, args.out)


# ---- extend ----


def _extend_options(parser: Parser, words: Words) -> None:
    add_run(parser)
    parser.add_argument("image", type=str, help="the picture to grow, of any width; an extended one too")
    parser.add_argument("--right", type=int, required=True, help="by how many pixels, at the run's own height")
    parser.add_argument("--stride", type=int | None, default=None, help="by how many pixels the window moves on")
    _more_options(parser, "extended.png")


def extend(args: Namespace) -> None:
    from sfumato.data.fit import fit_height
    from sfumato.systems.extend import default_stride

    n = args.number
    check_counts(number=n, steps=args.steps, batch=args.batch, right=args.right)
    system = _open(args, "extend")
    channels, height, _ = image_space(system)
    image = _tensor(fit_height(_picture(args.image, channels), height))
    given, prompts = conditions(system, args.run, args.text, args.label, n)
    seeds = list(range(args.seed, args.seed + n))
    with progress("Growing") as watch:
        images = system.extend(
            image.expand(n, -1, -1, -1),
            args.right,
            given or None,
            stride=args.stride,
            guidance=args.guidance,
            seeds=seeds,
            batch=args.batch,
            watch=watch,
            **options_of(args),
        )
    stride = args.stride or default_stride(system, **options_of(args))
    more = {"source": args.image, "right": args.right, "stride": stride}
    facts = [{**fact, **more} for fact in drawn_facts(args, system, seeds, prompts)]
    _finish(args, images, facts, prompts, width=images.shape[-1])


# ---- upscale ----


def _upscale_options(parser: Parser, words: Words) -> None:
    add_run(parser)
    parser.add_argument("image", type=str, help="the small picture")
    parser.add_argument(
        "--factor", type=int | None, default=None, help="the least that the picture's size needs if not"
    )
    _more_options(parser, "upscaled.png")


def upscale(args: Namespace) -> None:
    from sfumato.data.fit import fit

    n = args.number
    check_counts(number=n, steps=args.steps, batch=args.batch, factor=args.factor)
    system = _open(args, "upscale")
    channels, _, side = image_space(system)
    image = _picture(args.image, channels)
    factor = _factor(args, system.codec.factors or (1,), side, min(image.size))
    small = side // factor
    if image.size != (small, small):
        note(f"{args.image} is {image.width}×{image.height}; its middle is taken at {small}×{small}.")
    images = _tensor(fit(image, small)).expand(n, -1, -1, -1)
    given, prompts = conditions(system, args.run, args.text, args.label, n)
    seeds = list(range(args.seed, args.seed + n))
    with progress("Enlarging") as watch:
        images = system.upscale(
            images,
            given or None,
            guidance=args.guidance,
            seeds=seeds,
            batch=args.batch,
            watch=watch,
            **options_of(args),
        )
    facts = [{**fact, "source": args.image, "factor": factor} for fact in drawn_facts(args, system, seeds, prompts)]
    _finish(args, images, facts, prompts, factor=factor)


def _factor(args: Namespace, factors: tuple[int, ...], side: int, square: int) -> int:
    """The one that was asked for, or the smallest that need not enlarge the picture beforehand."""
    if args.factor is not None:
        if args.factor not in factors and factors != (1,):
            raise UsageError(f"--factor is one of {', '.join(map(str, factors))} for this run, not {args.factor}.")
        return args.factor
    found = next((factor for factor in factors if side // factor <= square), None)
    if found is None:
        least = side // max(factors)
        raise UsageError(f"{args.image} is {square} pixels across, and this run enlarges from {least} on.")
    return found


GROWING = [
    Verb(
        "extend",
        "RUN IMAGE --right N",
        "Grow a picture beyond its right border, as far as you like.",
        "sfumato extend runs/hills hills.png --right 256 -n 2 --out longer/",
        _extend_options,
        extend,
    ),
    Verb(
        "upscale",
        "RUN IMAGE",
        "Draw the details of a small picture, with a run over wavelets.",
        "sfumato upscale runs/wavelets small.png -n 4 --out large.png",
        _upscale_options,
        upscale,
    ),
]
