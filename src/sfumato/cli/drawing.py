"""The verbs that make pictures: sample, reconstruct, encode, decode, interpolate."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from jsonargparse import Namespace

from sfumato.cli.console import note, progress, say_json, table
from sfumato.cli.drawn import tell_drawn, write_drawn
from sfumato.cli.parser import Parser, Verb, Words
from sfumato.cli.runs import (
    able,
    conditions,
    default_steps,
    one_file,
    open_run,
    read_pictures,
    tell_written,
    write_pictures,
)
from sfumato.core.errors import DataError, UsageError

MOST = 1_000_000  # of what is counted; the pictures of a call are held in memory
SAMPLES = 8  # drawn when neither a number nor a condition says how many
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


def _run(parser: Parser) -> None:
    parser.add_argument("run", type=str, help="a run folder, or hub:owner/name")


def _condition(parser: Parser) -> None:
    parser.add_argument(
        "--text", type=str, nargs="+", action="extend", default=None, metavar="T", help="captions, taken in turn"
    )
    parser.add_argument(
        "--label", type=str, nargs="+", action="extend", default=None, metavar="L", help="classes by name or number"
    )


def _sampler(parser: Parser) -> None:
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


def _options(args: Namespace) -> dict[str, Any]:
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


def _drawn_facts(args: Namespace, system: Any, seeds: list[int], prompts: list[str]) -> list[dict[str, Any]]:
    shared = {"run": args.run, "guidance": args.guidance, "steps": default_steps(system), **_options(args)}
    return [{**shared, "seed": seed, "prompt": prompt} for seed, prompt in zip(seeds, prompts)]


def _positive(**numbers: int | None) -> None:
    for name, number in numbers.items():
        if number is not None and not 1 <= number <= MOST:
            bound = "at least 1" if number < 1 else f"at most {MOST:,}"
            raise UsageError(f"--{name} must be {bound}, not {number}.")


# ---- sample ----


def _sample_options(parser: Parser, words: Words) -> None:
    _run(parser)
    _condition(parser)
    parser.add_argument("-n", "--number", type=int | None, default=None, help="how many in all; one a condition, or 8")
    _sampler(parser)
    parser.add_argument(
        "--out", type=str | None, default=None, help="a folder, or one grid, .png or .jpg; of texts a file, .txt"
    )
    parser.add_seed()
    parser.add_device()
    parser.add_json()


def sample(args: Namespace) -> None:
    asked = max(len(args.text or ()), len(args.label or ()))
    n = args.number if args.number is not None else asked or SAMPLES
    _positive(number=n, steps=args.steps, batch=args.batch)
    system = open_run(args.run, args.device)
    able(system, args.run, "draws")
    given, prompts = conditions(system, args.run, args.text, args.label, n)
    seeds = list(range(args.seed, args.seed + n))
    with progress("Drawing") as watch:
        images = system.sample(
            n, given or None, guidance=args.guidance, seeds=seeds, batch=args.batch, watch=watch, **_options(args)
        )
    facts = _drawn_facts(args, system, seeds, prompts)
    names = [str(seed) for seed in seeds]
    written = write_drawn(images, system.entries, args.out, names, facts, prompts)
    if args.json:
        say_json({"run": args.run, "written": written, "images": facts})
    else:
        tell_drawn(images, system.entries, written)


# ---- reconstruct ----


def _reconstruct_options(parser: Parser, words: Words) -> None:
    _run(parser)
    parser.add_argument("images", type=str, nargs="+", help="pictures, of any size")
    parser.add_argument(
        "--out", type=str, default="reconstructions.png", help="a folder, or a grid with the errors, .png or .jpg"
    )
    parser.add_device()
    parser.add_json()


def reconstruct(args: Namespace) -> None:
    import torch

    from sfumato.metrics import eight_bit, psnr

    system = open_run(args.run, args.device)
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


# ---- encode, decode ----


def _encode_options(parser: Parser, words: Words) -> None:
    _run(parser)
    parser.add_argument("images", type=str, nargs="+", help="pictures, of any size")
    parser.add_argument("--out", type=str, required=True, help="a .safetensors file with the tensor `latent`")
    parser.add_device()
    parser.add_json()


def encode(args: Namespace) -> None:
    from sfumato.checkpoint import write_file
    from sfumato.checkpoint.tensors import encode_tensors

    system = open_run(args.run, args.device)
    latent = system.encode(read_pictures(args.images, system)).cpu().contiguous()
    metadata = {"run": args.run, "space": str(system.codec.space), "codec": _codec_hash(system)}
    metadata["images"] = json.dumps(args.images)
    write_file(Path(args.out), b"".join(bytes(part) for part in encode_tensors({"latent": latent}, metadata)))
    if args.json:
        facts = {"shape": list(latent.shape), "dtype": str(latent.dtype).removeprefix("torch.")}
        say_json({"run": args.run, "written": args.out, "space": str(system.codec.space), **facts})
    else:
        note(f"Wrote {len(latent)} latents of {system.codec.space} to {args.out}.")


def _decode_options(parser: Parser, words: Words) -> None:
    _run(parser)
    parser.add_argument("latents", type=str, help="a .safetensors file with the tensor `latent`")
    parser.add_argument("--out", type=str, default="decoded.png", help="a folder, or one grid, .png or .jpg")
    parser.add_device()
    parser.add_json()


def decode(args: Namespace) -> None:
    from sfumato.checkpoint.tensors import read_header, read_tensors

    _, about = read_header(Path(args.latents))
    tensors = read_tensors(Path(args.latents))
    if "latent" not in tensors:
        raise DataError(f"{args.latents} has no tensor `latent`, but {', '.join(sorted(tensors)) or 'nothing'}.")
    system = open_run(args.run, args.device)
    _check_codec(args, system, about)
    images = system.decode(tensors["latent"])
    facts = [{"run": args.run, "source": f"{args.latents}[{i}]"} for i in range(len(images))]
    written = write_pictures(images, args.out, [str(i) for i in range(len(images))], facts)
    if args.json:
        say_json({"run": args.run, "written": written, "images": len(images)})
    else:
        tell_written(written, args.out)


def _codec_hash(system: Any) -> str:
    """What tells one codec from another of the same shape."""
    from sfumato.checkpoint import hash_tensors

    return hash_tensors(system.codec.state_dict())


def _check_codec(args: Namespace, system: Any, about: dict[str, Any]) -> None:
    """Refuses latents of another codec: of the same shape they would decode, and to a wrong picture."""
    made = about.get("run", "an unnamed run")
    if "codec" not in about:
        note(f"warning: {args.latents} does not say which codec made it; if not {args.run}'s, the pictures are wrong.")
    elif about["codec"] != _codec_hash(system):
        raise UsageError(
            f"{args.latents} was encoded by {made}, whose codec is not that of {args.run}. Decode it with {made}, or "
            "with a run that took its codec over (`--from codec=…`)."
        )


# ---- interpolate ----


def _interpolate_options(parser: Parser, words: Words) -> None:
    _run(parser)
    parser.add_argument("a", type=str, help="the first picture")
    parser.add_argument("b", type=str, help="the last picture")
    parser.add_argument("--frames", type=int, default=8, help="how many pictures, both ends included")
    _condition(parser)
    parser.add_argument("--steps", type=int | None, default=None, help="of the flow to noise and back")
    parser.add_argument("--out", type=str, default="between.png", help="a folder, or one strip, .png or .jpg")
    parser.add_seed("of what a solver draws on the way back")
    parser.add_device()
    parser.add_json()


def interpolate(args: Namespace) -> None:
    _positive(steps=args.steps)
    if args.frames < 2:
        raise UsageError(f"--frames must be at least 2, the two ends, not {args.frames}.")
    system = open_run(args.run, args.device)
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


DRAWING = [
    Verb(
        "sample",
        "RUN",
        "Draw pictures.",
        'sfumato sample runs/emoji --text "a red apple" "a blue fish" -n 8 --guidance 3 --out fruit.png',
        _sample_options,
        sample,
    ),
    Verb(
        "reconstruct",
        "RUN IMAGE…",
        "Send pictures through the codec and back, and show what was lost.",
        "sfumato reconstruct runs/vqgan cat.jpg dog.png --out there-and-back.png",
        _reconstruct_options,
        reconstruct,
    ),
    Verb(
        "encode",
        "RUN IMAGE… --out FILE",
        "Write the latents of pictures to a safetensors file.",
        "sfumato encode runs/vqgan cat.jpg dog.png --out pets.safetensors",
        _encode_options,
        encode,
    ),
    Verb(
        "decode",
        "RUN FILE",
        "Turn latents back into pictures.",
        "sfumato decode runs/vqgan pets.safetensors --out pets.png",
        _decode_options,
        decode,
    ),
    Verb(
        "interpolate",
        "RUN A B",
        "Draw the way from one picture to another.",
        "sfumato interpolate runs/emoji cat.png dog.png --frames 8 --out between.png",
        _interpolate_options,
        interpolate,
    ),
]
