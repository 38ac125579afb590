"""The verb that teaches a shell to complete: completion bash|zsh|fish prints a script to be sourced.

The script is made from the verbs' own parsers and the index, so it knows what this version knows: verbs; after `train`
and `info` recipes, and a recipe's dials once it is named; after `list` topics; and what an option can be where that is
known. Everything else is completed as a path. Nothing runs while a person types.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from sfumato.cli.console import say
from sfumato.cli.index import TOPICS, index
from sfumato.cli.parser import Parser, Verb, Words

Verbs = Mapping[str, Verb]
SHELLS = ("bash", "zsh", "fish")
RECIPES_AFTER = ("train", "info")


def _completion_options(parser: Parser, words: Words) -> None:
    parser.add_argument("shell", type=Literal["bash", "zsh", "fish"], help="whose script is printed")


def script(shell: str, verbs: Verbs) -> str:
    return _fish(verbs) if shell == "fish" else _bash(shell, verbs)


def flags(verbs: Verbs) -> dict[str, dict[str, tuple[str, ...]]]:
    """{verb: {flag: what it can be, empty where that is open}}, without a recipe's dials."""
    found: dict[str, dict[str, tuple[str, ...]]] = {}
    for verb in verbs.values():
        parser = Parser(verb)
        verb.options(parser, [])
        found[verb.name] = {
            flag: tuple(map(str, action.choices or ())) or _literals(action)
            for action in parser._actions
            for flag in action.option_strings
            if flag.startswith("--")
        } | {"--config": (), "--print_config": ()}
        if "--size" in found[verb.name]:
            found[verb.name]["--size"] = ("xs", "s", "m", "paper")
    return found


def _literals(action: object) -> tuple[str, ...]:
    import typing

    hint = getattr(action, "_typehint", None)
    return tuple(map(str, typing.get_args(hint))) if typing.get_origin(hint) is Literal else ()


def first_words() -> dict[str, list[str]]:
    """{verb: what its first word can be}, of the verbs where that is known."""
    recipes = [row["name"] for row in index()["recipes"]]
    return {"list": list(TOPICS), "completion": list(SHELLS), **dict.fromkeys(RECIPES_AFTER, recipes)}


def _bash(shell: str, verbs: Verbs) -> str:
    cases, values = [], []
    all_flags = flags(verbs)
    for verb, known in all_flags.items():
        cases.append(f"    {verb}) flags={_quoted(known)};;")
        values += [f"    {verb}:{flag}) values={_quoted(can)};;" for flag, can in known.items() if can]
    firsts = [f"    {verb}) firsts={_quoted(words)};;" for verb, words in first_words().items()]
    dials = []
    for row in index()["recipes"]:
        named = {f"--{dial['name'].replace('_', '-')}": dial["choices"] for dial in row["dials"]}
        dials.append(f"    {row['name']}) dials={_quoted(named)};;")
        values += [
            f"    {verb}:{flag}:{row['name']}) values={_quoted(map(str, choices))};;"
            for flag, choices in named.items()
            for verb in RECIPES_AFTER
            if choices and flag != "--size"
        ]
    zsh = "autoload -U +X bashcompinit && bashcompinit\n" if shell == "zsh" else ""
    where = "~/.zshrc" if shell == "zsh" else "~/.bashrc"
    lines = "\n".join
    return f"""# sfumato completion {shell}. To have it in every shell: sfumato completion {shell} >> {where}
{zsh}_sfumato() {{
  local word="${{COMP_WORDS[COMP_CWORD]}}" before="${{COMP_WORDS[COMP_CWORD-1]}}" verb="${{COMP_WORDS[1]}}"
  local flags="" dials="" firsts="" values="" recipe=""
  COMPREPLY=()
  if [[ $COMP_CWORD -eq 1 ]]; then
    COMPREPLY=( $(compgen -W {_quoted([*all_flags, "--help", "--version"])} -- "$word") )
    return
  fi
  [[ $COMP_CWORD -gt 2 ]] && recipe="${{COMP_WORDS[2]}}"
  case "$verb" in
{lines(cases)}
  esac
  case "$verb" in
{lines(firsts)}
  esac
  case "$verb" in {"|".join(RECIPES_AFTER)}) case "$recipe" in
{lines(dials)}
  esac;; esac
  case "$verb:$before" in
{lines(v for v in values if v.count(":") == 1)}
  esac
  case "$verb:$before:$recipe" in
{lines(v for v in values if v.count(":") == 2)}
  esac
  if [[ -n $values ]]; then
    COMPREPLY=( $(compgen -W "$values" -- "$word") )
  elif [[ $word == -* ]]; then
    COMPREPLY=( $(compgen -W "$flags $dials" -- "$word") )
  elif [[ $COMP_CWORD -eq 2 && -n $firsts ]]; then
    COMPREPLY=( $(compgen -W "$firsts" -- "$word") )
  fi
}}
complete -o default -F _sfumato sfumato"""


def _fish(verbs: Verbs) -> str:
    lines = ["# sfumato completion fish. To have it in every shell:"]
    lines.append("#   sfumato completion fish > ~/.config/fish/completions/sfumato.fish")
    for verb in verbs.values():
        lines.append(f"complete -c sfumato -n __fish_use_subcommand -a {verb.name} -d {_single(verb.summary)}")
    for name, words in first_words().items():
        seen = f"'__fish_seen_subcommand_from {name}'"
        lines.append(f"complete -c sfumato -n {seen} -a {_single(' '.join(words))}")
    for name, known in flags(verbs).items():
        seen = f"'__fish_seen_subcommand_from {name}'"
        for flag, values in known.items():
            more = f" -x -a {_single(' '.join(values))}" if values else ""
            lines.append(f"complete -c sfumato -n {seen} -l {flag[2:]}{more}")
    for row in index()["recipes"]:
        seen = f"'__fish_seen_subcommand_from {' '.join(RECIPES_AFTER)}; and __fish_seen_subcommand_from {row['name']}'"
        for dial in row["dials"]:
            more = f" -x -a {_single(' '.join(map(str, dial['choices'])))}" if dial["choices"] else ""
            flag = dial["name"].replace("_", "-")
            lines.append(f"complete -c sfumato -n {seen} -l {flag} -d {_single(dial['help'])}{more}")
    return "\n".join(lines)


def _quoted(words: object) -> str:
    return '"' + " ".join(words) + '"'  # type: ignore[arg-type]


def _single(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def completing(verbs: Verbs) -> Verb:
    """The verb, for a shell that is to know `verbs`, which are read when it runs."""
    return Verb(
        "completion",
        "bash|zsh|fish",
        "Print a script that teaches a shell to complete.",
        'eval "$(sfumato completion bash)"',
        _completion_options,
        lambda args: say(script(args.shell, verbs)),
    )
