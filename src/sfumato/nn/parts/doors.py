"""Whether a condition opens the doors that a network was built with.

A shut door that the net expects would make it run outside of what it learned, and a condition of which the net reads
nothing would be silently ignored; both are refused. A door more is allowed, as long as another one is read: a caption
is a sequence and its mean, and a net may take the one without the other."""

from __future__ import annotations

from sfumato.core.condition import Condition
from sfumato.core.errors import Misfit


def check_doors(
    net: str,
    condition: Condition,
    *,
    vector: int | None = None,
    sequence: int | None = None,
    grid: int | None = None,
) -> None:
    """Each number is the width that the net reads at that door, None where it has none; `net` names it in errors."""
    reads = {"vector": (vector, -1), "sequence": (sequence, -1), "grid": (grid, 1)}
    opened = [name for name in reads if getattr(condition, name) is not None]
    built = [name for name, (width, _) in reads.items() if width is not None]
    for name in built:
        width, dim = reads[name]
        if name not in opened:
            raise Misfit(
                f"This {net} expects condition.{name}, but the condition opens {' and '.join(opened) or 'no door'}. "
                "Build the net and the conditioner for the same doors."
            )
        if getattr(condition, name).shape[dim] != width:
            found = getattr(condition, name).shape[dim]
            raise Misfit(f"This {net} reads a condition.{name} of width {width}, not {found}.")
    if opened and not built:
        raise Misfit(
            f"This {net} was built without a condition; the {' and '.join(opened)} given to it would be ignored. "
            "Build the net with that door, or sample without a condition."
        )
