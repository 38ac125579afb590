"""The verbs that go from pictures to a file of latents, and back: encode, decode."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from jsonargparse import Namespace

from sfumato.cli.console import note, say_json
from sfumato.cli.parser import Parser, Verb, Words
from sfumato.cli.runs import open_run, read_pictures, tell_written, write_pictures
from sfumato.cli.sampler import add_run
from sfumato.core.errors import DataError, UsageError


def _encode_options(parser: Parser, words: Words) -> None:
    add_run(parser)
    parser.add_argument("images", type=str, nargs="+", help="pictures, of any size")
    parser.add_argument("--out", type=str, required=True, help="a .safetensors file with the tensor `latent`")
    parser.add_device()
    parser.add_json()


def encode(args: Namespace) -> None:
    from sfumato.checkpoint import write_file
    from sfumato.checkpoint.tensors import encode_tensors

    system = open_run(args.run, args.device, "encodes")
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
    add_run(parser)
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
    system = open_run(args.run, args.device, "decodes")
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


ENCODE = Verb(
    "encode",
    "RUN IMAGE… --out FILE",
    "Write the latents of pictures to a safetensors file.",
    "sfumato encode runs/vqgan cat.jpg dog.png --out pets.safetensors",
    _encode_options,
    encode,
)
DECODE = Verb(
    "decode",
    "RUN FILE",
    "Turn latents back into pictures.",
    "sfumato decode runs/vqgan pets.safetensors --out pets.png",
    _decode_options,
    decode,
)
