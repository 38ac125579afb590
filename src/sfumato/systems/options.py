"""What a prior's sampler can be told: the parameters of its `sample`, read from its signature.

`sample(condition, noise, *, null, guidance, known, …)`: what stands for the dots are its options. They are looked at
before anything is drawn, so that a wrong name is answered with the nearest and a value of a wrong kind with the right
one, wherever they came from: Python, the command line, a request. A number must be finite and in the option's range.
"""

from __future__ import annotations

import inspect
import math
import types
import typing
from collections.abc import Mapping, Sequence
from numbers import Integral, Real
from typing import Any

from torch import Tensor

from sfumato.core.contracts import Prior
from sfumato.core.errors import UsageError
from sfumato.core.registry import nearest

GIVEN = ("condition", "noise", "null", "guidance", "known", "null_known")  # by a System
LARGE = 1e6  # beyond it a factor only makes infinities
RANGES: dict[str, tuple[float, float]] = {
    "steps": (1, 100_000),
    "head_steps": (1, 100_000),
    "rounds": (1, 1000),
    "search": (0, 1_000_000),
    "top_k": (1, LARGE),
    "top_p": (0, 1),
    "temperature": (0, 1e30),  # all noise, and still finite
    "choice_temperature": (0, LARGE),
    "truncation": (0, LARGE),
    "softness": (1e-3, 1e3),
    "stop": (0, 1),
    "interval": (0, 1),
    "rescale": (0, 1),
    "eta": (0, 1),
    "most": (0, LARGE),
    "guidance": (-LARGE, LARGE),
    "variance_guidance": (-LARGE, LARGE),
}


def options_of(prior: Prior) -> list[str]:
    """Their names: steps, temperature, …"""
    return [name for name in inspect.signature(prior.sample).parameters if name not in GIVEN]


def check_options(prior: Prior, options: Mapping[str, Any]) -> None:
    """Raises UsageError for an option that the prior does not have, and for a value that it cannot take."""
    parameters = inspect.signature(prior.sample, eval_str=True).parameters
    if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        return
    own = options_of(prior)
    for name, value in options.items():
        if name not in own:
            advice = nearest(name, own) if own else "It takes none."
            raise UsageError(f"{type(prior).__name__} has no sampling option {name!r}. {advice}")
        if not fits(value, parameters[name].annotation):
            said = value if len(repr(value)) <= 60 else f"{str(value)[:57]}…"
            raise UsageError(f"{name} takes {_said(parameters[name].annotation)}, not {said!r}.")
        check_range(name, value)


def of_each(priors: Mapping[str, Prior | None], options: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """{system of a cascade: its options, checked}. NAME.option is for the system NAME, guidance too, and stronger than
    the plain one, which is for all that have it. UsageError for one that nobody has, with the nearest."""
    found: dict[str, dict[str, Any]] = {name: {} for name in priors}
    for said in sorted(options, key=lambda said: "." in said):
        name, dot, option = said.rpartition(".")
        if dot and name not in priors:
            raise UsageError(f"No system of the cascade is called {name!r}. {nearest(name, priors)}")
        takers = [name] if dot else [name for name, prior in priors.items() if prior is not None and _has(prior, said)]
        if not takers:
            known = {option for prior in priors.values() if prior is not None for option in options_of(prior)}
            advice = nearest(said, known) if known else "They take none."
            raise UsageError(f"No system of the cascade has a sampling option {said!r}. {advice}")
        for taker in takers:
            found[taker][option] = options[said]
    for name, prior in priors.items():
        if prior is not None:
            check_options(prior, {option: value for option, value in found[name].items() if option != "guidance"})
            check_scale(prior, found[name].get("guidance", 1.0))
    return found


def _has(prior: Prior, option: str) -> bool:
    parameters = inspect.signature(prior.sample).parameters
    return option in options_of(prior) or any(p.kind is p.VAR_KEYWORD for p in parameters.values())


def check_scale(prior: Prior, guidance: Any) -> None:
    """Raises UsageError for a guidance that is no finite number, nor, where the prior takes one, a row of them."""
    parameter = inspect.signature(prior.sample, eval_str=True).parameters.get("guidance")
    kind = float if parameter is None or parameter.annotation is parameter.empty else parameter.annotation
    if not fits(guidance, kind) or (isinstance(guidance, Sequence) and not guidance):
        raise UsageError(f"guidance takes {_said(kind)}, not {str(guidance)[:40]}.")
    check_range("guidance", guidance)


def check_range(name: str, value: Any) -> None:
    """Raises UsageError for a number, or one in a row of them, that is not finite or out of the option's range."""
    low, high = RANGES.get(name, (-math.inf, math.inf))
    for number in _numbers(value):
        try:
            fine = math.isfinite(number) and low <= number <= high
        except OverflowError:  # a whole number that no float holds
            fine = False
        if not fine:
            wanted = "a finite number" + ("" if math.isinf(low) else f" from {low:g} to {high:g}")
            raise UsageError(f"{name} takes {wanted}, not {str(number)[:40]}.")


def _numbers(value: Any) -> list[Any]:
    if isinstance(value, Tensor):
        return value.flatten().tolist() if value.numel() <= 64 else []  # a start, not a setting
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [number for one in value for number in _numbers(one)]
    return [value] if isinstance(value, Real) and not isinstance(value, bool) else []


def fits(value: Any, kind: Any) -> bool:
    """Whether the value is of the annotated kind, as far as it speaks of numbers, words, and rows of them."""
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        return any(fits(value, one) for one in typing.get_args(kind))
    if typing.get_origin(kind) is typing.Literal:
        return value in typing.get_args(kind)
    if kind in (None, type(None)):
        return value is None
    if kind in (float, int):
        number = isinstance(value, Real if kind is float else Integral) and not isinstance(value, bool)
        return number or isinstance(value, Tensor)
    if kind in (str, bool, Tensor):
        return isinstance(value, kind)
    if typing.get_origin(kind) in (tuple, list, Sequence):
        return _row_fits(value, kind)
    return True


def _row_fits(value: Any, kind: Any) -> bool:
    if not isinstance(value, Sequence) or isinstance(value, str):
        return False
    inner = typing.get_args(kind)
    if typing.get_origin(kind) is tuple and Ellipsis not in inner:
        return len(value) == len(inner) and all(map(fits, value, inner))
    return all(fits(one, inner[0]) for one in value)


def _said(kind: Any) -> str:
    if typing.get_origin(kind) is typing.Literal:
        return " or ".join(map(repr, typing.get_args(kind)))
    return kind.__name__ if isinstance(kind, type) and not typing.get_args(kind) else str(kind).replace("typing.", "")
