"""What is asked of a sampler on the command line: the run, a condition, the prior's options, how many."""

from __future__ import annotations

import json
from typing import Any

from jsonargparse import Namespace

from sfumato.cli.parser import Parser
from sfumato.cli.runs import default_steps
from sfumato.core.errors import UsageError

MOST = 1_000_000  # of what is counted; the pictures of a call are held in memory
# Of priors; each knows which of them it has
OPTIONS = (
    *("steps", "temperature", "top_k", "top_p", "solver", "softness", "stop"),
    *("order", "choice_temperature", "ramp", "head_steps", "truncation"),
)

# What System.sample takes beside the prior's options
FLAGS = {
    **{"guidance": "--guidance", "batch": "--batch", "seeds": "--seed", "seed": "--seed", "n": "--number"},
    **{"number": "--number", "given": "--text or --label", "text": "--text", "label": "--label"},
    **{"known": "`sfumato edit`", "watch": "nothing", "stride": "--stride", "right": "--right", "null": "nothing"},
}


def add_run(parser: Parser) -> None:
    parser.add_argument("run", type=str, help="a run folder, or hub:owner/name")


def add_condition(parser: Parser) -> None:
    parser.add_argument(
        "--text", type=str, nargs="+", action="extend", default=None, metavar="T", help="captions, taken in turn"
    )
    parser.add_argument(
        "--label", type=str, nargs="+", action="extend", default=None, metavar="L", help="classes by name or number"
    )


def add_sampler(parser: Parser) -> None:
    parser.add_argument("--guidance", type=float, default=1.0, help="1 is unguided, 0 unconditional, 2–5 is usual")
    parser.add_argument("--steps", type=int | None, default=None, help="of the sampler; more is slower and finer")
    parser.add_argument("--temperature", type=float | None, default=None, help="below 1: likelier, less varied")
    parser.add_argument("--top-k", type=int | None, default=None, help="draw among the k likeliest tokens only")
    parser.add_argument("--top-p", type=float | None, default=None, help="draw among the likeliest tokens that hold p")
    parser.add_argument("--solver", type=str | None, default=None, help="of a diffusion: ddim, heun, …")
    parser.add_argument("--softness", type=float | None, default=None, help="of gud-…: 1 all at once, less: in order")
    parser.add_argument(
        "--stop", type=float | None, default=None, help="of a diffusion: the time to stop at, a preview"
    )
    parser.add_argument("--order", type=str | None, default=None, help="of what is filled in: confidence, halton, …")
    parser.add_argument(
        "--choice-temperature", type=float | None, default=None, help="of that choice: 0 keeps the surest, 4.5 is usual"
    )
    parser.add_argument("--ramp", type=str | None, default=None, help="linear: guidance grows step by step")
    parser.add_argument("--head-steps", type=int | None, default=None, help="of the small diffusion at each position")
    parser.add_argument(
        "--truncation", type=float | None, default=None, help="of a GAN's noise: 0.5–2, less is likelier, less varied"
    )
    parser.add_argument(
        "--option",
        type=str,
        nargs="+",
        action="extend",
        default=None,
        metavar="NAME=VALUE",
        help="any other that the prior has (see sfumato info): rescale=0.7 interval=[0.2,0.8]; in a cascade one "
        "system's alone by large.steps=27",
    )
    parser.add_argument("--batch", type=int, default=8, help="pictures at once; part of what a seed means")


def options_of(args: Namespace) -> dict[str, Any]:
    named = {name: getattr(args, name) for name in OPTIONS if getattr(args, name) is not None}
    more = dict(map(_option, args.option or ()))
    for name in more:
        flag = f"--{name.replace('_', '-')}"
        if name in FLAGS:
            raise UsageError(f"{name!r} is said by {FLAGS[name]}, not by --option.")
        if name in named:
            raise UsageError(f"{name!r} is said twice, by {flag} and by --option.")
    return named | more


def _option(said: str) -> tuple[str, Any]:
    """NAME=VALUE, where a value is JSON, or else the word as it stands."""
    name, equals, value = said.partition("=")
    if not (name and equals):
        raise UsageError(f"--option takes NAME=VALUE, for instance rescale=0.7, not {said!r}.")
    try:
        return name.replace("-", "_"), json.loads(value)
    except ValueError:
        return name.replace("-", "_"), value


def drawn_facts(args: Namespace, system: Any, seeds: list[int], prompts: list[str]) -> list[dict[str, Any]]:
    shared = {"run": args.run, "guidance": args.guidance, "steps": default_steps(system), **options_of(args)}
    return [{**shared, "seed": seed, "prompt": prompt} for seed, prompt in zip(seeds, prompts)]


def check_counts(**numbers: int | None) -> None:
    for name, number in numbers.items():
        if number is not None and not 1 <= number <= MOST:
            bound = "at least 1" if number < 1 else f"at most {MOST:,}"
            raise UsageError(f"--{name} must be {bound}, not {number}.")
