"""The model card of a pushed system: README.md, what a stranger should know before they draw from it.

YAML between two lines of ---, as the hub reads it (licence, tags, what it does), then: the recipe and its dials, the
pictures that it has seen and whose licence they have, the scores with their protocol, how to load it. What nobody said
stands there as not stated; a licence is never guessed.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from sfumato.checkpoint.disk import read_json
from sfumato.core.errors import WeightsError
from sfumato.systems.abilities import abilities, can, in_words
from sfumato.version import VERSION

UNSTATED = "not stated"
SHIPPED = {  # what NOTICE says of the sets in the package
    "emoji": "Noto Color Emoji Apache-2.0, Twemoji CC-BY-4.0, Fluent Emoji MIT; captions Unicode-3.0",
    "digits": "CC-BY-4.0 (Alpaydin and Kaynak, https://doi.org/10.24432/C50P49)",
    "scenes": "drawn by sfumato, Apache-2.0",
}


def card(system: Any, repository: str, run: Path | None, license: str | None, data_license: str | None) -> str:
    """README.md of `repository`; `run` is the run folder, where there is one, that knows the data and the scores."""
    from huggingface_hub import ModelCardData

    recipe = system.recipe
    data, scores = _record(run, "data.json"), _record(run, "scores.json")
    about = ModelCardData(
        license=license or "unknown",
        library_name="sfumato",
        pipeline_tag=_task(system),
        tags=["sfumato", recipe["name"]],
    )
    parts = [
        f"---\n{about.to_yaml()}\n---",
        f"# {repository.split('/')[1]}",
        f"A `{recipe['name']}` of sfumato {VERSION}: it can {in_words(abilities(system))}.",
        "## Load it\n\n" + _how(system, repository),
        "## Recipe\n\n" + _table([("recipe", recipe["name"]), *recipe["dials"].items()]),
        "## Data\n\n" + _data(data, data_license),
        "## Scores\n\n" + _scores(scores),
        f"## Licence\n\nThe weights: {license or UNSTATED}.",
    ]
    return "\n\n".join(parts) + "\n"


def _task(system: Any) -> str:
    """What the hub calls what it does."""
    if can(system, "classifies"):
        return "image-classification"
    if system.entries == ("text",):
        return "text-generation"
    return "text-to-image" if "text" in system.hears else "unconditional-image-generation"


def _how(system: Any, repository: str) -> str:
    dials = system.recipe["dials"]
    classes = list(getattr(system, "classes", ()))
    load = f'```python\nimport sfumato\n\nsystem = sfumato.load("hub:{repository}")\n'
    if can(system, "classifies"):
        shape = ", ".join(map(str, system.data.shape))
        called = f"p = system.classify(images)  # (n, {shape}) in [−1, 1] → (n, {system.count}), of system.classes"
        return f"{load}{called}\n```\n\nIn the shell: `sfumato classify hub:{repository} photos/ --out what.csv`"
    if system.entries == ("text",):
        called = "texts = system.sample(4, seeds=range(4))"
        return f"{load}{called}\n```\n\nIn the shell: `sfumato sample hub:{repository} -n 4`"
    given = ""
    if dials.get("text"):
        given = ', given={"text": ["a caption"] * 4}'
    elif classes:
        given = f', given={{"label": [{json.dumps(classes[0], ensure_ascii=False)}] * 4}}'
    return (
        f"{load}images = system.sample(4{given}, seeds=range(4))  # (4, C, H, W) in [−1, 1]\n```\n\n"
        f"In the shell: `sfumato sample hub:{repository} -n 4 --out pictures.png`"
    )


def _data(data: dict[str, Any], license: str | None) -> str:
    name = _public(data.get("name") or UNSTATED)
    known = SHIPPED.get(name.partition(":")[0]) if data else None
    rows = [("set", name)]
    rows += [(key, data[key]) for key in ("images", "texts", "captions", "side", "fingerprint") if data.get(key)]
    return _table([*rows, ("licence of the pictures", license or known or UNSTATED)])


def _scores(scores: dict[str, Any]) -> str:
    values = scores.get("scores")
    if not isinstance(values, dict) or not values:
        return "None were measured."
    protocol = json.dumps(_published(scores.get("protocol", {})), indent=1, ensure_ascii=False)
    rows = [(name, f"{value:.4g}" if isinstance(value, (int, float)) else value) for name, value in values.items()]
    return f"{_table(rows)}\n\nHow they were measured:\n\n```json\n{protocol}\n```"


def _published(value: Any) -> Any:
    """A protocol without the paths of this machine."""
    if isinstance(value, dict):
        return {key: _public(v) if key in ("set", "data", "run") else _published(v) for key, v in value.items()}
    return [_published(v) for v in value] if isinstance(value, list) else value


def _public(name: Any) -> str:
    """A set's name; of a path its last part, since the rest is this machine's own affair."""
    text = str(name)
    return text if text.startswith("hub:") else Path(text).name or text


def _table(rows: Any) -> str:
    cell = lambda value: " ".join(str(value).split()).replace("|", "\\|")
    return "\n".join(["| | |", "|---|---|", *(f"| {cell(name)} | {cell(value)} |" for name, value in rows)])


def _record(run: Path | None, name: str) -> dict[str, Any]:
    """A JSON of the run folder; {} where there is none that can be read, since a card is worth less than a push."""
    try:
        return {} if run is None else read_json(run / name)
    except WeightsError:
        return {}
