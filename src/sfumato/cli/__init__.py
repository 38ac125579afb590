"""The command line: `sfumato VERB …`. Importing it imports neither torch nor a verb's machinery.

exit code   0 done   1 an error   2 usage   3 data   4 diverged   130, 143 stopped by SIGINT, SIGTERM
"""

from __future__ import annotations

import difflib
import os
import shlex
import sys
import traceback
from collections.abc import Sequence

from sfumato.core.errors import SfumatoError, UsageError
from sfumato.version import VERSION

PROGRAM = "sfumato"


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one verb; returns the exit code. Errors end as a line or two on stderr."""
    from sfumato.cli.console import listen, note

    _wait_politely()
    words = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in words
    try:
        listen(debug)
        code = _verb(words) or 0
        sys.stdout.flush()
        return code
    except KeyboardInterrupt:
        note("Stopped.")
        return 130
    except BrokenPipeError:  # the reader left, as `head` does; point stdout elsewhere so that Python's exit stays quiet
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 0
    except SystemExit as asked:  # --help, or a training that was asked to stop
        code = asked.code if isinstance(asked.code, int) else 0
        if code > 128:
            run = getattr(asked, "run", None)
            note(
                f"Stopped, and saved in {run}. `sfumato resume {shlex.quote(str(run))}` goes on from here."
                if run
                else "Stopped, and saved: `sfumato resume RUN` goes on from here."
            )
        return code
    except Exception as error:
        if debug:
            traceback.print_exc()
        else:
            note(f"{PROGRAM}: {describe(error)}")
        return error.exit_code if isinstance(error, SfumatoError) else 1


def _wait_politely() -> None:
    """How long a thread of libgomp spins before it sleeps, where the user has not said: some ten microseconds. By its
    own default, three hundred times that, one busy neighbour made a training step on two cores five hundred times as
    slow; so it made it four times, and on quiet cores no slower. Read when torch is imported, so here."""
    if not {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"} & set(os.environ):
        os.environ["GOMP_SPINCOUNT"] = "1000"


def describe(error: Exception) -> str:
    """One or two lines for a person."""
    if isinstance(error, SfumatoError):
        return str(error)
    if isinstance(error, OSError):
        where = f" ({error.filename})" if error.filename else ""
        return f"{error.strerror or error}{where}."
    first = (str(error).strip() or "no message").splitlines()[0][:300]
    if "out of memory" in first.lower():
        return f"The device ran out of memory. Use a smaller --batch, --side or --size.\n{first}"
    said = f"{type(error).__name__}: {first}"
    return f"An error that it did not foresee: {said}\nRun it again with --debug for the traceback."


def _verb(words: list[str]) -> int | None:
    from sfumato.cli.console import say
    from sfumato.cli.verbs import VERBS

    if not words or words[0] in ("-h", "--help", "help"):
        say(_help())
        return 0 if words else 2
    if words[0] in ("-V", "--version"):
        say(f"{PROGRAM} {VERSION}")
        return 0
    name, rest = words[0], words[1:]
    if name not in VERBS:
        close = difflib.get_close_matches(name.lower(), VERBS, n=1, cutoff=0.5)
        advice = f"Did you mean {close[0]!r}?" if close else f"Known: {', '.join(VERBS)}."
        raise UsageError(f"There is no verb {name!r}. {advice} `{PROGRAM} --help` lists all.")
    from sfumato.cli.parser import Parser

    verb = VERBS[name]
    parser = Parser(verb)
    verb.options(parser, rest)
    return verb.run(parser.parse(rest))


def _help() -> str:
    from sfumato.cli.verbs import VERBS

    width = max(len(verb.name) for verb in VERBS.values())
    lines = [f"  {verb.name:<{width}}  {verb.summary}" for verb in VERBS.values()]
    return "\n".join(
        [
            f"usage: {PROGRAM} VERB …",
            "",
            "Image generators as compositions of a latent space, a prior over it and a condition.",
            "",
            *lines,
            "",
            f"`{PROGRAM} VERB --help` says more about each, with an example.",
            "",
            "example:",
            f"  {PROGRAM} train ddpm emoji --out runs/emoji --minutes 10",
            f"  {PROGRAM} sample runs/emoji -n 16 --out emoji.png",
        ]
    )
