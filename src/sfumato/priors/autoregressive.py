"""Autoregression: one position after another.

    log p(z | c) = Σ_i log p(z_π(i) | z_π(<i), c),    p(z_π(i) | …) = head(h_i),    h = net(z, c),    π an order

The net is causal (h_i sees z_π(<i) and c) and owns the embedding of what it reads; the head turns its features into a
distribution over K tokens or over a vector. π is the raster by default, or any of priors.orders; trained on "any", a
new one is drawn for each example, and sampling may take whichever it likes: what is known first, for instance. Shapes:
z (B, N) tokens, (B, N, D), or (B, C, H, W) read as its cells; h (B, N, F).

Sampling keeps what the net has computed (net.start, net.step), and what is known of the beginning is read in one pass
where the net can (net.resume). Guided features are h = h_u + s (h_c − h_u), for tokens the logits, the null rows
standing in the same cached batch.

Where the length varies, the net's last feature is the logit of whether a position is there, given that all before are
(priors/presence.py); what is not there is neither learned from nor scored, and guided this logit is as tokens' are.

Positions may have alphabets of their own, `letters`: p is then over those alone. `parts` of the positions may count by
weights of their own: Σ_part w_part · mean over the part of −log p.

Sources: image GPT (Chen et al. 2020); input corruption Esser et al. 2021, arXiv:2012.09841, of vectors Pasini et al.
2024, arXiv:2411.18447; vectors with a diffusion head Li et al. 2024, arXiv:2406.11838; any order Uria et al. 2014,
arXiv:1310.1757; two alphabets in a row, one eighth to seven, Ramesh et al. 2021, arXiv:2102.12092.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from sfumato.core.condition import Condition
from sfumato.core.contracts import Kind, Known, Prior, Terms
from sfumato.core.errors import Misfit, UsageError
from sfumato.core.noise import Noise
from sfumato.core.space import Grid, Sequence, Space, Tokens, check, from_rows, presence, rows, to_rows, varies
from sfumato.core.tensors import against, per_image
from sfumato.likelihoods import Likelihood
from sfumato.priors import heads
from sfumato.priors import presence as there_or_not
from sfumato.priors.choice import choose, shape
from sfumato.priors.guidance import linear, pair
from sfumato.priors.orders import order_of

__all__ = ["Autoregressive", "Causal", "choose", "shape"]


Parts = Mapping[str, tuple[range, float]]  # name → (positions, weight)


class Causal(Protocol):
    """What the network promises (nn.causal.CausalNet does). `order` goes with it where it is not the raster. One that
    has `resume(condition, z)` takes as many steps as z (B, n) has entries, and one, in a single pass."""

    def __call__(self, z: Tensor, condition: Condition) -> Tensor: ...

    def start(self, condition: Condition) -> Any: ...

    def step(self, state: Any, last: Tensor | None) -> Tensor: ...


class _Cached:
    """The net as a function of (last, before, condition), as guidance wants it; the first call opens the cache, and
    reads there what stands before the last, if anything. The order of the guided rows is that of the unguided ones,
    twice. Of an entry it reads the first `width`; None: all."""

    def __init__(self, net: Causal, told: dict[str, Tensor], width: int | None = None):
        self.net, self.told, self.state, self.width = net, told, None, width

    def __call__(self, last: Tensor | None, before: Tensor | None, condition: Condition) -> Tensor:
        if self.state is None:
            order = self.told.get("order")
            if order is not None and order.ndim == 2 and len(order) != condition.rows:
                order = torch.cat([order, order])
            if before is None:
                self.state = self.net.start(condition, **_told(order))
            else:
                self.state = self.net.resume(condition, before[..., : self.width], **_told(order))  # type: ignore[attr-defined]
        return self.net.step(self.state, None if last is None else last[..., : self.width])


class _Held:
    """What is known of a latent's entries, step by step, in the order π of the visits."""

    def __init__(self, space: Space, known: Known | None, order: Tensor | None):
        self.value, self.mask = None, None
        if known is not None:
            self.value, self.mask = (taken(to_rows(space, part), order) for part in known)

    def at(self, i: int, z: Tensor) -> Tensor:
        """z, or what is known instead."""
        return z if self.value is None or self.mask is None else torch.where(self.mask[:, i], self.value[:, i], z)

    def run(self) -> list[Tensor]:
        """The entries with which it begins, known in each row, and in one row as many as in the others; not all. Fewer
        than two are none: nothing is won by them."""
        if self.value is None or self.mask is None or not len(self.mask):
            return []
        whole = self.mask.flatten(2).all(-1) if self.mask.ndim > 2 else self.mask
        first, *others = whole.long().cumprod(1).sum(1).unique().tolist()
        n = 0 if others else min(first, whole.shape[1] - 1)
        return list(self.value[:, :n].unbind(1)) if n > 1 else []


class Autoregressive(Prior):
    """`order` is a name of priors.orders, or "any". `smoothing`, of tokens, spreads that share of each target over all
    of them. `corrupt` spoils what the net reads in training, not what it predicts, so that it bears with draws of its
    own: the probability with which a token is replaced by a random one, or the largest deviation of the noise that is
    added to vectors, each example having its own between 0 and that. `repeats`: how many noise levels a diffusion head
    learns at each position for one call of the net. `letters` (N, K) bool: which tokens may stand at each position; one
    that may not, and stands there in training, is read and not asked for.
    `parts`: the names of parts of the positions, which hold each position once, and their weights."""

    spaces = (Tokens, Sequence, Grid)
    varying = True
    letters: Tensor | None

    def __init__(
        self,
        space: Space,
        net: Causal,
        head: heads.Head,
        *,
        order: str = "raster",
        smoothing: float = 0.0,
        corrupt: float = 0.0,
        repeats: int = 1,
        letters: Tensor | None = None,
        parts: Parts | None = None,
    ):
        super().__init__()
        self.space, self.line = space, rows(space)
        if isinstance(self.line, Sequence):  # of vectors, whether they are all there or not
            self.line = replace(self.line, varying=False)
        self.net, self.head = net, heads.check_head(head, self.line)
        if smoothing and not self.tokens:
            raise UsageError("Label smoothing spreads a target over all tokens; a latent of vectors has no tokens.")
        self.order, self.smoothing, self.corrupt, self.repeats = order, smoothing, corrupt, repeats
        self.kind: Kind | None = heads.kind_of(head)
        if self.varies and order != "raster":
            raise Misfit(f"What is there of {space} comes first, so it is gone through in that order, not {order!r}.")
        fixed = order not in ("raster", "any")
        self.register_buffer("places", order_of(order, self.line) if fixed else None)  # π, of a fixed order
        self.register_buffer("letters", heads.check_letters(letters, self.line), persistent=False)
        self.parts = _check_parts(parts, self.line)

    @property
    def tokens(self) -> bool:
        return isinstance(self.space, Tokens)

    @property
    def varies(self) -> bool:
        return varies(self.space)

    def _visits(self, noise: Noise | None = None) -> Tensor | None:
        """π: (N,), (B, N) where each example has its own, or None for the raster."""
        if self.order == "any" and noise is not None:
            return noise.uniform(self.line.length).argsort(1)
        return self.places  # type: ignore[return-value]

    def loss(self, z: Tensor, condition: Condition, noise: Noise, progress: float = 1.0, player: int = 0) -> Terms:
        """ "nats": mean over the positions (not over the D entries of one); or the terms of a head of its own; or, of
        parts, each one's mean times its weight, by its name. Of a varying length also "presence", each a sum divided by
        N, so that with a likelihood they add up to −log p / N."""
        order = self._visits(noise)
        z = taken(to_rows(self.space, check(self.space, z)), order)
        if self.varies:
            return self._varying(z, condition, noise, progress)
        h = self._net(self._spoilt(z, noise, order), condition, order)
        if not isinstance(self.line, Tokens):
            times = 1 if isinstance(self.head, Likelihood) else self.repeats
            h, z = (x.flatten(0, 1).repeat_interleave(times, 0) for x in (h, z))
            return heads.loss(self.head, h, z, noise.parts(self.line.length * times), progress)
        logits = self.head(h, dim=-1).logits  # type: ignore[operator,union-attr]
        if self.letters is None and not self.parts:
            return {"nats": F.cross_entropy(logits.flatten(0, 1), z.flatten(), label_smoothing=self.smoothing)}
        found = heads.nats(logits, z, self._letters(order), self.smoothing)
        if not self.parts:
            return {"nats": heads.mean(*found)}
        nats, asked = (put(part, order) for part in found)
        of = {name: (slice(None), slice(at.start, at.stop)) for name, (at, _) in self.parts.items()}
        return {name: weight * heads.mean(nats[of[name]], asked[of[name]]) for name, (_, weight) in self.parts.items()}

    def _varying(self, z: Tensor, condition: Condition, noise: Noise, progress: float) -> Terms:
        z, there = z[..., :-1], presence(z)
        h = self._net(self._spoilt(z, noise, None), condition, None)
        nats, share = there_or_not.nats(h[..., -1], there).mean(), there.float().mean()
        times = 1 if isinstance(self.head, Likelihood) else self.repeats
        keep = there.clone()
        keep[0, 0] |= ~there.any()  # where nothing is there a head is asked all the same, and counts nothing
        keep = keep.repeat_interleave(times, 1)
        h, z = (x.repeat_interleave(times, 1)[keep] for x in (h[..., :-1], z))
        terms = heads.loss(self.head, h, z, noise.parts(self.line.length * times, keep), progress)
        return {"presence": nats, **{name: share * term for name, term in terms.items()}}

    def _letters(self, order: Tensor | None, i: int | None = None) -> Tensor | None:
        """Which letters may stand at the steps of an order, (N, K) or (B, N, K); or at step i, (K,) or (B, K)."""
        if self.letters is None:
            return None
        if order is None:
            return self.letters if i is None else self.letters[i]
        return self.letters[order if i is None else order[..., i]]

    def _spoilt(self, z: Tensor, noise: Noise, order: Tensor | None) -> Tensor:
        """What the net reads instead of z in training."""
        if not self.corrupt:
            return z
        if isinstance(self.line, Tokens):
            if self.letters is None:
                random = noise.integers(self.line.vocab, *self.line.shape)
            else:  # the n-th of the letters that may stand there
                count = self.letters.sum(-1)
                n = (noise.uniform(*self.line.shape) * count).long().minimum(count - 1) + 1
                random = torch.searchsorted(self.letters.cumsum(-1), n.T.contiguous()).T
                random = taken(random, order)
            return torch.where(noise.uniform(*self.line.shape) < self.corrupt, random, z)
        return z + self.corrupt * against(noise.uniform(), z) * noise.normal(*self.line.shape).to(z)

    def log_prob(self, z: Tensor, condition: Condition, noise: Noise) -> Tensor:
        """(B,) in nats, summed over positions, in the order that sampling takes by default; exact, or with a diffusion
        head its bound."""
        order = self._visits()
        z = taken(to_rows(self.space, check(self.space, z)), order)
        if self.varies:
            z, there = z[..., :-1], presence(z)
            h = self._net(z, condition, order)
            found = heads.log_prob(self.head, h[..., :-1][there], z[there], noise.parts(self.line.length, there))
            asked = there_or_not.nats(h[..., -1], there)
            return per_image(asked.new_zeros(there.shape).masked_scatter(there, found.to(asked)) - asked)
        h = heads.only(self._net(z, condition, order), self._letters(order))
        parts = noise.parts(self.line.length)
        return per_image(heads.log_prob(self.head, h.flatten(0, 1), z.flatten(0, 1), parts).unflatten(0, (len(z), -1)))

    def _net(self, z: Tensor, condition: Condition, order: Tensor | None) -> Tensor:
        return self.net(z, condition, **_told(order))

    @torch.no_grad()
    def sample(  # type: ignore[override]  # options are named, so that a wrong one is answered with the nearest
        self,
        condition: Condition,
        noise: Noise,
        *,
        null: Condition | None = None,
        guidance: float = 1.0,
        known: Known | None = None,
        null_known: Known | None = None,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float = 1.0,
        order: str | None = None,
        head_steps: int | None = None,
    ) -> Tensor:
        """temperature divides the logits (0: always the likeliest), and of vectors scales the deviations that a mixture
        or a normal is drawn with (arXiv:2312.02116), but not how many come; top_k and top_p keep the likeliest tokens.
        `known` positions are kept as given, wherever they are, and what comes after them sees them; where all rows
        begin with as many, these are read in one pass. Where something is known, `null_known` stands instead in the
        rows where the unguided u is computed, which without a `null` hear the same condition. `order`, of a prior that
        learned any: a name of priors.orders, "random" being another for each image, or "known", what is known first
        (the default where something is, else the raster)."""
        if not self.tokens and (top_k is not None or top_p != 1):
            raise UsageError("top_k and top_p choose among tokens; this prior draws continuous vectors.")
        known, null_known = (there_or_not.completed(self.space, one) for one in (known, null_known))
        null_known = heads.beside(known, null_known)
        if order is None and self.order == "any" and known is not None:
            order = "known"
        visits = self._visits() if order is None else self._wanted(order, noise, known)
        held, other = _Held(self.space, known, visits), _Held(self.space, null_known, visits)
        # all drawn before: how many numbers a row uses does not depend on what it draws
        uniforms = noise.uniform(self.line.length) if self.tokens or self.varies else torch.empty(0)
        options = heads.stepping(self.head, head_steps)
        options |= {} if self.tokens else heads.cooling(self.head, temperature)
        null = condition if null is None and null_known is not None else null
        width = self.line.width if isinstance(self.line, Sequence) else None
        step = pair(_Cached(self.net, _told(visits), width), condition, null, guidance)
        drawn = held.run() if hasattr(self.net, "resume") else []
        theirs, n = [other.at(i, z) for i, z in enumerate(drawn)], len(drawn)
        for i in range(n, self.line.length):
            c, u = step(*_read(drawn, i == n), beside=_read(theirs, i == n))
            h = c if u is None else linear(c, u, guidance)
            if self.tokens:
                logits = heads.only(self.head(h, dim=-1).logits, self._letters(visits, i))  # type: ignore[operator,union-attr]
                z = choose(shape(logits, temperature, top_k, top_p), uniforms[:, i])
            else:
                for _ in range(n + 1 if i == n else 1):  # what is known is drawn too, and dropped: later numbers stay
                    z = heads.draw(self.head, *self._heard(c, u), guidance, noise, **options)
                if self.varies:
                    z = there_or_not.joined(z, h[..., -1], uniforms[:, i], drawn[-1] if drawn else None)
            z = held.at(i, z)
            drawn.append(there_or_not.emptied(z) if self.varies else z)
            theirs.append(other.at(i, drawn[-1]))
        z = from_rows(self.space, put(torch.stack(drawn, 1), visits))
        return z if known is None else torch.where(known[1], known[0], z)

    def _heard(self, c: Tensor, u: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """What the head is told: the features, but for the one that says whether a position is there."""
        if not self.varies:
            return c, u
        return c[..., :-1], None if u is None else u[..., :-1]

    def _wanted(self, order: str, noise: Noise, known: Known | None) -> Tensor:
        if self.order != "any":
            raise UsageError(
                f"This prior learned one order, {self.order!r}; only one trained on 'any' can take others."
            )
        n = self.line.length
        if order == "random":
            return noise.uniform(n).argsort(1)
        if order == "known":
            shown = torch.zeros(noise.rows, n, dtype=torch.bool, device=noise.device)
            if known is not None:
                mask = to_rows(self.space, known[1])
                shown = mask if self.tokens else mask.all(-1)
            return (~shown).byte().argsort(dim=1, stable=True)
        return order_of(order, self.line).to(noise.device)


def _told(order: Tensor | None) -> dict[str, Tensor]:
    return {} if order is None else {"order": order}


def _read(entries: list[Tensor], first: bool) -> tuple[Tensor | None, Tensor | None]:
    """(the last entry, those before it): these at the first step only, for later ones the cache has them."""
    if not entries:
        return None, None
    return entries[-1], torch.stack(entries[:-1], 1) if first and len(entries) > 1 else None


def _check_parts(parts: Parts | None, line: Tokens | Sequence) -> dict[str, tuple[range, float]]:
    if not parts:
        return {}
    if not isinstance(line, Tokens):
        raise Misfit(f"Parts are weighed where tokens are scored, and {line} holds vectors.")
    if sorted(i for at, _ in parts.values() for i in at) != list(range(line.length)):
        said = ", ".join(f"{name} {at.start} … {at.stop - 1}" for name, (at, _) in parts.items())
        raise Misfit(f"Parts hold each of the {line.length} positions once, and these do not: {said}.")
    return dict(parts)


def taken(z: Tensor, order: Tensor | None) -> Tensor:
    """(B, N, …) with entry π_i at place i; π (N,) or (B, N)."""
    if order is None:
        return z
    if order.ndim == 1:
        return z[:, order]
    return z.gather(1, order if z.ndim == 2 else order[..., None].expand_as(z))


def put(z: Tensor, order: Tensor | None) -> Tensor:
    """The inverse of `taken`."""
    return z if order is None else taken(z, order.argsort(-1))
