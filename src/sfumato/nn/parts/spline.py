"""Monotone rational-quadratic splines: elementwise maps with as many bends as one likes, and an inverse in closed form.

Between the knots (x_k, y_k) and (x_{k+1}, y_{k+1}), with slopes d_k and d_{k+1} there,

    w = x_{k+1} − x_k,   h = y_{k+1} − y_k,   m = h / w,   θ = (x − x_k) / w
    q = m + (d_{k+1} + d_k − 2 m) θ (1 − θ)
    y = y_k + h (m θ² + d_k θ (1 − θ)) / q
    dy/dx = m² (d_{k+1} θ² + 2 m θ (1 − θ) + d_k (1 − θ)²) / q²

x from y is the root of a θ² + b θ + c, with g = (y − y_k) (d_{k+1} + d_k − 2 m), a = h (m − d_k) + g, b = h d_k − g,
c = −m (y − y_k), taken as 2 c / (−b − √(b² − 4 a c)), which cancels nowhere. Outside of [−B, B] the map is y = x.

Shapes: x (…); knots and slopes (K + 1, …) for K bins, since a picture's pixels lie side by side in memory.
Source: Durkan et al. 2019, arXiv:1906.04032, after Gregory & Delbourgo 1982.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

# A bin's share of [−B, B], and a knot's slope; 1 / LEAST is the most of a slope. The paper's code has 10⁻³ and no most,
# which learned no better here (300 steps on emoji), and lost what lies far from the data on its way back.
LEAST = 1e-2


def shape(raw: Tensor, bound: float) -> tuple[Tensor, Tensor, Tensor]:
    """Free numbers (3 K − 1, …) → (knots x, knots y, slopes), each (K + 1, …); zeros give the identity.

    K shares of the width, K of the height, K − 1 slopes of the inner knots; at ±B the slope is 1, that of the tails."""
    bins, most = (len(raw) + 1) // 3, -math.log(LEAST)
    # flat where they are large: numbers far from the data are rough, and no error of theirs should be stretched
    widths, heights, slopes = (most * torch.tanh(raw / most)).split([bins, bins, bins - 1])
    return _knots(widths, bound), _knots(heights, bound), _between(slopes.exp(), 1.0, 1.0)


def _knots(raw: Tensor, bound: float) -> Tensor:
    shares = LEAST + (1 - LEAST * len(raw)) * raw.softmax(0)
    return _between(bound * (2 * shares[:-1].cumsum(0) - 1), -bound, bound)  # the ends are exact


def _between(inner: Tensor, first: float, last: float) -> Tensor:
    ends = inner[:1]
    return torch.cat([torch.full_like(ends, first), inner, torch.full_like(ends, last)])


def forward(x: Tensor, knots_x: Tensor, knots_y: Tensor, slopes: Tensor) -> tuple[Tensor, Tensor]:
    """(y, log dy/dx), both with the shape of x."""
    inside = (x > knots_x[0]) & (x < knots_x[-1])
    at = torch.where(inside, x, knots_x[0])  # so that no gradient is made outside and thrown away as NaN
    x0, w, y0, h, d0, d1 = _bin(at, knots_x, knots_x, knots_y, slopes)
    m, theta = h / w, (at - x0) / w
    rest = 1 - theta
    q = m + (d1 + d0 - 2 * m) * theta * rest
    y = y0 + h * (m * theta.square() + d0 * theta * rest) / q
    log_slope = 2 * (m.log() - q.log()) + (d1 * theta.square() + 2 * m * theta * rest + d0 * rest.square()).log()
    return torch.where(inside, y, x), torch.where(inside, log_slope, 0.0)


def inverse(y: Tensor, knots_x: Tensor, knots_y: Tensor, slopes: Tensor) -> Tensor:
    inside = (y > knots_y[0]) & (y < knots_y[-1])
    at = torch.where(inside, y, knots_y[0])
    x0, w, y0, h, d0, d1 = _bin(at, knots_y, knots_x, knots_y, slopes)
    m, up = h / w, at - y0
    g = up * (d1 + d0 - 2 * m)
    a, b, c = h * (m - d0) + g, h * d0 - g, -m * up
    theta = 2 * c / (-b - (b.square() - 4 * a * c).clamp(min=0).sqrt())
    return torch.where(inside, x0 + theta * w, y)


def _bin(at: Tensor, where: Tensor, knots_x: Tensor, knots_y: Tensor, slopes: Tensor) -> tuple[Tensor, ...]:
    """x_k, w, y_k, h, d_k, d_{k+1} of the bin of each entry, found among the knots `where`."""
    k = (at >= where[1:-1]).sum(0, keepdim=True)
    x0, x1 = (knots_x.gather(0, k + i)[0] for i in (0, 1))
    y0, y1 = (knots_y.gather(0, k + i)[0] for i in (0, 1))
    d0, d1 = (slopes.gather(0, k + i)[0] for i in (0, 1))
    return x0, x1 - x0, y0, y1 - y0, d0, d1
