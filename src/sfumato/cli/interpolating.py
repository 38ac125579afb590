"""The verb that draws the way from one picture to another: interpolate."""

from __future__ import annotations

from jsonargparse import Namespace

from sfumato.cli.console import say_json
from sfumato.cli.parser import Parser, Verb, Words
from sfumato.cli.runs import conditions, open_run, read_pictures, tell_written, write_pictures
from sfumato.cli.sampler import add_condition, add_run, check_counts
from sfumato.core.errors import UsageError


def _interpolate_options(parser: Parser, words: Words) -> None:
    add_run(parser)
    parser.add_argument("a", type=str, help="the first picture")
    parser.add_argument("b", type=str, help="the last picture")
    parser.add_argument("--frames", type=int, default=8, help="how many pictures, both ends included")
    add_condition(parser)
    parser.add_argument("--steps", type=int | None, default=None, help="of the flow to noise and back")
    parser.add_argument("--out", type=str, default="between.png", help="a folder, or one strip, .png or .jpg")
    parser.add_seed("of what a solver draws on the way back")
    parser.add_device()
    parser.add_json()


def interpolate(args: Namespace) -> None:
    check_counts(steps=args.steps)
    if args.frames < 2:
        raise UsageError(f"--frames must be at least 2, the two ends, not {args.frames}.")
    system = open_run(args.run, args.device, "decodes")
    a, b = read_pictures([args.a, args.b], system)
    given, prompts = conditions(system, args.run, args.text, args.label, args.frames)
    options = {} if args.steps is None else {"steps": args.steps}
    images = system.interpolate(a, b, args.frames, given or None, seed=args.seed, **options)
    weights = [round(i / (args.frames - 1), 4) for i in range(args.frames)]
    facts = [
        {"run": args.run, "source": f"{args.a} {args.b}", "weight": w, "prompt": p} for w, p in zip(weights, prompts)
    ]
    names = [f"{i:03d}" for i in range(args.frames)]
    written = write_pictures(images, args.out, names, facts, prompts, columns=args.frames)
    if args.json:
        say_json({"run": args.run, "written": written, "images": facts})
    else:
        tell_written(written, args.out)


INTERPOLATE = Verb(
    "interpolate",
    "RUN A B",
    "Draw the way from one picture to another.",
    "sfumato interpolate runs/emoji cat.png dog.png --frames 8 --out between.png",
    _interpolate_options,
    interpolate,
)
