"""The verb that draws: sample."""

from __future__ import annotations

from jsonargparse import Namespace

from sfumato.cli.console import progress, say_json
from sfumato.cli.drawn import tell_drawn, write_drawn
from sfumato.cli.parser import Parser, Verb, Words
from sfumato.cli.runs import conditions, open_run, refuse_vectors
from sfumato.cli.sampler import add_condition, add_run, add_sampler, check_counts, drawn_facts, options_of

SAMPLES = 8  # drawn when neither a number nor a condition says how many


def _sample_options(parser: Parser, words: Words) -> None:
    add_run(parser)
    add_condition(parser)
    parser.add_argument("-n", "--number", type=int | None, default=None, help="how many in all; one a condition, or 8")
    add_sampler(parser)
    parser.add_argument(
        "--out", type=str | None, default=None, help="a folder, or one grid, .png or .jpg; of texts a file, .txt"
    )
    parser.add_seed()
    parser.add_device()
    parser.add_json()


def sample(args: Namespace) -> None:
    asked = max(len(args.text or ()), len(args.label or ()))
    n = args.number if args.number is not None else asked or SAMPLES
    check_counts(number=n, steps=args.steps, batch=args.batch)
    system = open_run(args.run, args.device, "draws")
    refuse_vectors(system, args.run)
    given, prompts = conditions(system, args.run, args.text, args.label, n)
    seeds = list(range(args.seed, args.seed + n))
    with progress("Drawing") as watch:
        images = system.sample(
            n, given or None, guidance=args.guidance, seeds=seeds, batch=args.batch, watch=watch, **options_of(args)
        )
    facts = drawn_facts(args, system, seeds, prompts)
    names = [str(seed) for seed in seeds]
    written = write_drawn(images, system.entries, args.out, names, facts, prompts)
    if args.json:
        say_json({"run": args.run, "written": written, "images": facts})
    else:
        tell_drawn(images, system.entries, written)


SAMPLE = Verb(
    "sample",
    "RUN",
    "Draw pictures, or texts.",
    'sfumato sample runs/emoji --text "a red apple" "a blue fish" -n 8 --guidance 3 --out fruit.png',
    _sample_options,
    sample,
)
