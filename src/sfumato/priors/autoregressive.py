"""Autoregression: one position after another, in raster order.

    log p(z | c) = Σ_i log p(z_i | z_<i, c),    p(z_i | …) = likelihood(h_i),    h = net(z, c)

The net is causal (h_i sees z_<i and c) and owns the embedding of what it reads; the likelihood turns its features into
a distribution, over K tokens or over a continuous vector. Shapes: z (B, N) or (B, N, D); h (B, N, F).

Sampling keeps what the net has computed (net.start, net.step) and guides the features, which for tokens are the logits:
h = h_u + s (h_c − h_u), the null rows standing in the same cached batch.

Sources: image GPT (Chen et al. 2020); input corruption Esser et al. 2021, arXiv:2012.09841; the nucleus Holtzman et al.
2020, arXiv:1904.09751.
"""

from __future__ import annotations

from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from sfumato.core.condition import Condition
from sfumato.core.contracts import Kind, Known, Prior, Terms
from sfumato.core.errors import UsageError
from sfumato.core.noise import Noise
from sfumato.core.space import Sequence, Tokens, check
from sfumato.core.tensors import per_image
from sfumato.likelihoods import Likelihood
from sfumato.priors.guidance import guide


class Causal(Protocol):
    """What the network promises (nn.causal.CausalNet does)."""

    def __call__(self, z: Tensor, condition: Condition) -> Tensor: ...

    def start(self, condition: Condition) -> Any: ...

    def step(self, state: Any, last: Tensor | None) -> Tensor: ...


class _Cached:
    """The net as a function of (last, condition), as guidance wants it; the first call opens the cache."""

    def __init__(self, net: Causal):
        self.net, self.state = net, None

    def __call__(self, last: Tensor | None, condition: Condition) -> Tensor:
        if last is None:
            self.state = self.net.start(condition)
        return self.net.step(self.state, last)


class Autoregressive(Prior):
    """`smoothing` spreads that share of each target over all tokens; `corrupt` is the probability with which a token
    that the net reads (not one that it predicts) is replaced by a random one. Both serve training, and tokens only."""

    spaces = (Tokens, Sequence)
    kind: Kind | None = "exact"
    space: Tokens | Sequence

    def __init__(
        self,
        space: Tokens | Sequence,
        net: Causal,
        likelihood: Likelihood,
        *,
        smoothing: float = 0.0,
        corrupt: float = 0.0,
    ):
        super().__init__()
        if isinstance(space, Sequence) and (smoothing or corrupt):
            raise UsageError("Label smoothing and corruption replace tokens by random ones; a Sequence has no tokens.")
        self.space, self.net, self.likelihood = space, net, likelihood
        self.smoothing, self.corrupt = smoothing, corrupt

    def loss(self, z: Tensor, condition: Condition, noise: Noise, progress: float = 1.0, player: int = 0) -> Terms:
        """ "nats": mean over the positions (not over the D entries of one)."""
        check(self.space, z)
        if isinstance(self.space, Sequence):
            nats = -self.likelihood(self.net(z, condition), dim=-1).log_prob(z)
            return {"nats": nats.sum() / z[..., 0].numel()}
        read = z
        if self.corrupt:
            random = noise.integers(self.space.vocab, *self.space.shape)
            read = torch.where(noise.uniform(*self.space.shape) < self.corrupt, random, z)
        logits = self.likelihood(self.net(read, condition), dim=-1).logits
        return {"nats": F.cross_entropy(logits.flatten(0, 1), z.flatten(), label_smoothing=self.smoothing)}

    def log_prob(self, z: Tensor, condition: Condition, noise: Noise) -> Tensor:
        """(B,) exact, in nats, summed over positions."""
        check(self.space, z)
        return per_image(self.likelihood(self.net(z, condition), dim=-1).log_prob(z))

    @torch.no_grad()
    def sample(  # type: ignore[override]  # options are named, so that a wrong one is answered with the nearest
        self,
        condition: Condition,
        noise: Noise,
        *,
        null: Condition | None = None,
        guidance: float = 1.0,
        known: Known | None = None,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float = 1.0,
    ) -> Tensor:
        """temperature divides the logits (0: always the likeliest); top_k and top_p keep the likeliest tokens. `known`
        positions are kept as given, wherever they are, and what comes after them sees them."""
        tokens = isinstance(self.space, Tokens)
        if not tokens and (temperature != 1 or top_k is not None or top_p != 1):
            raise UsageError("temperature, top_k and top_p choose among tokens; this prior draws continuous vectors.")
        if tokens:  # all drawn before: how many numbers a row uses does not depend on what it draws
            uniforms = noise.uniform(*self.space.shape)
        step = guide(_Cached(self.net), condition, null, guidance)
        drawn: list[Tensor] = []
        for i in range(self.space.length):
            at = self.likelihood(step(drawn[-1] if drawn else None), dim=-1)
            z = choose(shape(at.logits, temperature, top_k, top_p), uniforms[:, i]) if tokens else at.sample(noise)
            drawn.append(z if known is None else torch.where(known[1][:, i], known[0][:, i], z))
        return torch.stack(drawn, 1)


def shape(logits: Tensor, temperature: float = 1.0, top_k: int | None = None, top_p: float = 1.0) -> Tensor:
    """Logits (B, K) after temperature, with −∞ for what is neither among the top_k likeliest nor in the nucleus: the
    smallest set of likeliest tokens whose probability reaches top_p. Of tokens that tie, the earlier one stays."""
    if temperature < 0 or (top_k is not None and top_k < 1) or not 0 < top_p <= 1:
        raise UsageError(
            f"temperature ≥ 0, top_k ≥ 1 and 0 < top_p ≤ 1 are needed, not {temperature}, {top_k}, {top_p}."
        )
    if temperature == 0:
        temperature, top_k = 1.0, 1
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
    """The token whose stretch of the distribution function holds u (B,) in [0, 1): logits (B, K) → (B,) int64.

    In float64, so that no token's stretch is lost among 10⁵ others; u is scaled by the last sum, which is 1 only up to
    rounding.
    """
    reach = logits.double().softmax(-1).cumsum(-1)
    found = torch.searchsorted(reach, (u.double()[:, None] * reach[:, -1:]), right=True)[:, 0]
    return found.clamp(max=logits.shape[-1] - 1)
