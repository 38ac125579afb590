"""A type as a person writes it: INT, FLOAT, {a,b,c}, INT|none."""

from __future__ import annotations

import types
import typing
from typing import Any


def kind(hint: Any) -> str:
    if typing.get_origin(hint) is typing.Literal:
        return "{" + ",".join(map(str, typing.get_args(hint))) + "}"
    if isinstance(hint, types.UnionType):
        return "|".join("none" if part is type(None) else kind(part) for part in typing.get_args(hint))
    return "true|false" if hint is bool else hint.__name__.upper()
