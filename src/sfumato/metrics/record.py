"""scores.json: what was measured of a run, one time after another. Nothing that was measured before is lost.

    {"scores": {name: value}, "protocol": {…}, "records": [{"name", "value", "protocol"}, …]}

`records` holds every score with the protocol that it was measured by; a new one takes the place of an old one of the
same name, set, part and protocol, its versions aside. `scores` is the newest value of each name, and `protocol` that of
the newest measurement, as readers of the first version expect.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any


def merged(old: Mapping[str, Any], new: Mapping[str, Any], **about: Any) -> dict[str, Any]:
    """What stood there (empty if nothing did) and what `evaluate` found, `about` (the set, the part) said too."""
    protocol = {**new["protocol"], **about}
    fresh = [{"name": name, "value": value, "protocol": _of(protocol, name)} for name, value in new["scores"].items()]
    taken = {_key(record) for record in fresh}
    kept = [record for record in _records(old) if _key(record) not in taken]
    scores = {record["name"]: record["value"] for record in (*kept, *fresh)}
    return {"scores": scores, "protocol": protocol, "records": [*kept, *fresh]}


def _records(old: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The records of a file, of the first version too, which had scores and one protocol."""
    records = old.get("records")
    if isinstance(records, list):
        return [r for r in records if isinstance(r, dict) and {"name", "value", "protocol"} <= set(r)]
    scores, protocol = old.get("scores"), old.get("protocol")
    if not isinstance(scores, dict) or not isinstance(protocol, dict):
        return []
    return [{"name": name, "value": value, "protocol": _of(protocol, name)} for name, value in scores.items()]


def _of(protocol: Mapping[str, Any], name: str) -> dict[str, Any]:
    """What of a protocol concerns one score: all that it shares, and its own."""
    own = protocol.get("scores")
    shared = {key: value for key, value in protocol.items() if key not in ("scores", "left_out")}
    return {**shared, **({"score": own[name]} if isinstance(own, dict) and name in own else {})}


def _key(record: Mapping[str, Any]) -> str:
    protocol = {key: value for key, value in dict(record["protocol"]).items() if key != "versions"}
    return json.dumps([record["name"], protocol], sort_keys=True, default=str)
