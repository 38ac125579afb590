"""Pictures without end: an order by place that rolls along (GUD, arXiv:2410.02667; Ruhe et al. 2024, arXiv:2402.09470).

    finished │ ramp  │ noise        time falls by `travel`,          finished    │ ramp  │ noise
    ─────────╲       ┆              the ramp goes on by a stride     ─────────────╲       ┆
              ╲______┆________                                                     ╲______┆____

d_i is linear in place, so the schedule at u + travel is that at u, a stride further left:

    γ_i(u + travel) = γ_j(u),  where j comes to the place of i
    travel = (g₁ − g₀) (1 − s) / s · (place_j − place_i) / Δ

A turn walks from `high` to `low` = high − travel, moves the picture on by a stride, lets fresh noise in on the right,
and is at `high` again: one walk, never interrupted, all of whose states are states of the path that was trained. No
finished column ever stands beside pure noise, save at the picture that was given.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from sfumato.priors.diffusion.gamma import Staggered, time_of
from sfumato.priors.diffusion.solvers import State

Move = Callable[[Tensor], Tensor]  # numbers of components (…, latent) → the same, a stride further left


@dataclass(frozen=True)
class Rolling:
    """u in [low, high] is the path's time; `fresh` are the components that a move lets in, and `done` those that are
    finished at `low`, both bool in the latent's shape."""

    path: Staggered
    move: Move
    fresh: Tensor
    done: Tensor
    low: float
    high: float

    def turn(self, steps: int, begin: float | None = None) -> Tensor:
        """u from `begin` (None: high) down to low, as densely as `steps` fill the whole of the path; float64."""
        begin = self.high if begin is None else begin
        return torch.linspace(begin, self.low, max(1, round(steps * (begin - self.low))) + 1, dtype=torch.float64)

    def moved(self, now: State, noise: Tensor) -> State:
        """The state a stride further on, with what the solver remembers; `noise` is of the path's terminal size."""
        travel = time_of(self.high) - time_of(self.low)
        return State(
            torch.where(self.fresh, noise, self.move(now.z)),
            now.t + travel,
            None if now.x is None else self.move(now.x),
            None if now.before is None else now.before + travel,
        )


def rolling(path: Staggered, move: Move, fresh: Tensor) -> Rolling | None:
    """None where a move does not carry the order along: no order by place, or one that is not by columns; or where the
    ramp is longer than the picture, so that nothing is finished while the fresh are noise."""
    if path.place is None or not path.clip:
        return None
    place = path.place
    shift = (move(place[None])[0] - place)[~fresh]  # the same for all, where places move along
    if len(shift) == 0 or float(shift.min()) < 1e-4 or float(shift.max() - shift.min()) > 1e-4:
        return None
    like = torch.zeros((), dtype=torch.float64, device=place.device)
    _, slope, _ = path._lines(like)
    travel = float(path.gap * (1 - path.softness) / path.softness * shift.mean() / slope)
    high = float(path.until(like)[fresh].max())
    low = high - travel
    if low <= 0:
        return None
    at = lambda u: path.rate(like.new_full((1,) * (place.ndim + 1), u))[0][0]
    return Rolling(path, move, fresh, (at(low) == at(0.0)).expand(place.shape), low, high)
