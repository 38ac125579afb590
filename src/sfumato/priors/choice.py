"""Choosing a token: logits → the distribution that is wanted → one of K, by one uniform number.

    p ∝ exp(logits / temperature), of which the top_k likeliest stay, and of these the nucleus: the smallest set of
    likeliest tokens whose probability reaches top_p

Shapes: logits (…, K). Source of the nucleus: Holtzman et al. 2020, arXiv:1904.09751.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from sfumato.core.errors import UsageError

FEW, BLOCK = 1 << 15, 32  # numbers up to which all are summed at once; tokens of a block otherwise


def shape(logits: Tensor, temperature: float = 1.0, top_k: int | None = None, top_p: float = 1.0) -> Tensor:
    """Logits after temperature (0: only the likeliest is left), with −∞ for what is neither among the top_k likeliest
    nor in the nucleus. Of tokens that tie, the earlier one stays."""
    if temperature < 0 or (top_k is not None and top_k < 1) or not 0 < top_p <= 1:
        raise UsageError(
            f"temperature ≥ 0, top_k ≥ 1 and 0 < top_p ≤ 1 are needed, not {temperature}, {top_k}, {top_p}."
        )
    if temperature == 0:
        temperature, top_k = 1.0, 1
    if temperature != 1:
        logits = logits / temperature
    if top_k is None and top_p == 1:
        return logits
    ordered, order = logits.sort(dim=-1, descending=True, stable=True)
    rank = torch.arange(logits.shape[-1], device=logits.device)
    cut = rank >= (logits.shape[-1] if top_k is None else top_k)
    ordered = ordered.masked_fill(cut, -torch.inf)
    probability = ordered.softmax(-1)
    ordered = ordered.masked_fill(probability.cumsum(-1) - probability >= top_p, -torch.inf)
    return torch.empty_like(logits).scatter_(-1, order, ordered)


def choose(logits: Tensor, u: Tensor) -> Tensor:
    """The token whose stretch of the distribution function holds u (…) in [0, 1): logits (…, K) → (…) int64.

    Summed in float64, so that no token's stretch is lost among 10⁵ others. (The exponentials stay in the logits'
    precision: a stretch is then off by 1e-7 of itself.) Where there are many numbers, u is looked up among blocks of
    tokens first, whose sums have that precision too, and then within one block: a table of them all in float64 costs
    ten times as much.
    """
    p, u = logits.softmax(-1), u.double()
    if p.numel() <= FEW:
        return _held(p, u * p.sum(-1, dtype=torch.float64))[0]
    blocks = F.pad(p, (0, -p.shape[-1] % BLOCK)).unflatten(-1, (-1, BLOCK))
    mass = blocks.sum(-1)
    block, rest = _held(mass, u * mass.sum(-1, dtype=torch.float64))
    within = blocks.gather(-2, block[..., None, None].expand(*block.shape, 1, BLOCK))[..., 0, :]
    return block * BLOCK + _held(within, rest)[0]


def _held(p: Tensor, want: Tensor) -> tuple[Tensor, Tensor]:
    """(the index i with p_0 + … + p_{i−1} ≤ want < p_0 + … + p_i, how much of want is left there); p_i > 0."""
    reach = p.cumsum(-1, dtype=torch.float64)
    most = reach[..., -1:] * (1 - 1e-15)  # a sum in another order or precision may be larger
    want = torch.minimum(want[..., None], most)
    i = torch.searchsorted(reach, want, right=True)
    before = torch.where(i > 0, reach.gather(-1, (i - 1).clamp(min=0)), 0.0)
    return i[..., 0], (want - before)[..., 0]
