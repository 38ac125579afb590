"""Normalising flow: a bijection that the network is, from latents to noise.

    log p(z | c) = log N(ε; 0, I) + log |det ∂ε/∂z|,    ε = net(z; c)

exactly. Sampling goes back, z = net⁻¹(T ε; c); T < 1 stays nearer to the mode, T = 0 is one picture. Where the network
holds learned Gaussians (Glow's splits and top), T scales their deviations, as in the paper.

Guidance: every number that the network predicts, means and log-deviations of the Gaussians and the parameters of the
couplings, is p = u + s (c − u), the couplings' from the same state in both. Any such numbers make a bijection, so the
guided flow is a normalised density by itself; at s = 1 and 0 it is p(z | c) and p(z) exactly. In between and beyond it
is not ∝ p(z | c)^s p(z)^{1 − s}, which no flow can sample.

Outside of training the state is kept in float64, and the networks read it rounded to float32. On the way back, where
the state differs in its last bits, they then predict the same numbers as on the way out, so that errors do not grow
from map to map: x comes back from ε to 1e-9 even where ε is millions. The density is not touched: what a coupling
predicts from the kept half is off the diagonal of its Jacobian, however roughly it is read.

Sources: Dinh et al. 2017, arXiv:1605.08803; Kingma & Dhariwal 2018, arXiv:1807.03039 (the data-dependent start, T).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor, nn

from sfumato.core.condition import Condition, stack
from sfumato.core.contracts import Kind, Known, Latents, Prior, Terms
from sfumato.core.errors import UsageError
from sfumato.core.noise import Noise
from sfumato.core.space import Grid, check, size
from sfumato.core.tensors import per_image, wide
from sfumato.priors.guidance import guide

Ask = Callable[[nn.Module, Tensor], Tensor]
FIRST = 256  # latents that the start is fitted to, as in the official code


class Bijection(Protocol):
    """What the network promises (nn.glow.Glow does). ask(part, state) is what that part of it predicts; `fit` does
    the data-dependent start once, whenever it is called."""

    def __call__(self, z: Tensor, ask: Ask) -> tuple[Tensor, Tensor]:
        """(ε of z's shape, log |det ∂ε/∂z| (B,))."""
        ...

    def inverse(self, eps: Tensor, ask: Ask) -> Tensor: ...

    def fit(self, z: Tensor, ask: Ask) -> None: ...


class Flow(Prior):
    spaces = (Grid,)
    kind: Kind | None = "exact"
    space: Grid

    def __init__(self, space: Grid, net: Bijection):
        super().__init__()
        self.space, self.net = space, net

    # ---- training ----

    def prepare(self, latents: Latents) -> None:
        """The network's data-dependent start on the first FIRST latents. All processes see the same ones."""
        parts: list[tuple[Tensor, Condition]] = []
        for part in latents():
            parts.append(part)
            if sum(len(z) for z, _ in parts) >= FIRST:
                break
        if parts:
            with torch.no_grad():
                self.net.fit(torch.cat([z for z, _ in parts]), self._ask(stack([c for _, c in parts])))

    def loss(self, z: Tensor, condition: Condition, noise: Noise, progress: float = 1.0, player: int = 0) -> Terms:
        """ "nats": −log p(z | c) / D, the mean over the batch."""
        return {"nats": -self._log_prob(check(self.space, z), condition).mean() / size(self.space)}

    # ---- use ----

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
        start: Tensor | None = None,
    ) -> Tensor:
        """temperature T scales the noise; `start` is noise of unit variance instead of a draw, from `invert` or between
        two of them."""
        if known is not None:
            raise UsageError(
                "A flow draws all entries of a latent from noise at once, so it cannot hold some of them and draw the "
                "rest. To repaint a part take a diffusion, a masked or an autoregressive prior."
            )
        if not (math.isfinite(temperature) and temperature >= 0):
            raise UsageError(f"A flow's temperature is a finite number ≥ 0, not {temperature}.")
        eps = noise.normal(*self.space.shape) if start is None else check(self.space, start)
        z = self.net.inverse(temperature * wide(eps), self._ask(condition, null, guidance))
        return z.to(next((p.dtype for p in self.parameters()), torch.float32))

    @torch.no_grad()
    def invert(self, z: Tensor, condition: Condition) -> Tensor:
        """The noise of unit variance from which `sample` comes back to z."""
        eps, _ = self.net(wide(check(self.space, z)), self._ask(condition))
        return eps  # in float64: rounded to float32, what lies far from the data would not find back

    def log_prob(self, z: Tensor, condition: Condition, noise: Noise) -> Tensor:
        """(B,) exact, in nats."""
        return self._log_prob(wide(check(self.space, z)), condition).to(z.dtype)

    def _log_prob(self, z: Tensor, condition: Condition) -> Tensor:
        eps, log_det = self.net(z, self._ask(condition))
        return log_det - per_image(eps.square() + math.log(2 * math.pi)) / 2

    def _ask(self, condition: Condition, null: Condition | None = None, guidance: float = 1.0) -> Ask:
        return lambda net, state: guide(net, condition, null, guidance)(state.float())
