"""A codec and the prior over its latents, learned in one step.

    loss = w_c · codec's terms on x  +  w_p · prior's terms on z,        z = codec.latent(x)

Where z is continuous it carries its gradient: the prior pulls at the encoder, and z is drawn from the very noise of the
codec's own pass, so that prior and decoder see one z. Tokens carry none. An encoder of tokens learns by the codec's
terms alone, which pass its lookup straight through, and the prior, its embeddings and the condition learn by the
prior's: joint then means that the prior follows codes that still move.

Nothing in this sum keeps a latent wide but the codec's own terms. A likelihood of z is raised by shrinking z without
end, and a regression onto z (a diffusion's loss) by making it constant. With a Gaussian bottleneck the KL to N(0, I)
stands against both; over an open one keep w_p small, or the encoder collapses. The codec's terms are a dimension of x,
the prior's a position or an entry of z, as each says.

Latents are scaled to unit variance by what is measured before the first step (`codec.finish`), and stay so: a prior
that has learned one scale must not find another at the end.

Sources: prior and autoencoder in one objective, Vahdat et al. 2021, arXiv:2106.05931; the collapse, and a stopped
gradient against it, Leng et al. 2025, arXiv:2504.10483.
"""

from __future__ import annotations

import math

import torch
from torch import nn

from sfumato.core.contracts import Batch, Batches, Objective, Terms
from sfumato.core.errors import Misfit, UsageError
from sfumato.core.noise import Noise
from sfumato.systems import matter
from sfumato.systems.system import System


class Joint(nn.Module):
    """The objective of a whole system; weights are those of its codec's and its prior's terms, which are called
    codec.… and prior.…. Player 0 is the first of both and the condition, then come the codec's others (a critic), then
    the prior's. The encoder runs twice a step: in the codec's terms, and for z."""

    def __init__(self, system: System, codec: float = 1.0, prior: float = 1.0):
        super().__init__()
        if system.prior is None or not system.codec.learned:
            missing = "prior" if system.prior is None else "codec that learns"
            raise Misfit(f"A codec and a prior are trained together, and this system has no {missing}.")
        for name, weight in (("codec", codec), ("prior", prior)):
            if not (math.isfinite(weight) and weight >= 0):
                raise UsageError(f"The weight of the {name} is a finite number from 0 on, not {weight}.")
        self.system, self.weights = system, {"codec": float(codec), "prior": float(prior)}

    @property
    def parts(self) -> dict[str, Objective]:
        return {"codec": self.system.codec.stage, "prior": self.system}

    def loss(self, batch: Batch, player: int = 0, noise: Noise | None = None, progress: float = 1.0) -> Terms:
        noise = (
            Noise.ambient(matter.count(self.system.codec.take(batch)), self.system.device) if noise is None else noise
        )
        found: Terms = {}
        for name, theirs in self._turns()[player]:
            if name == "codec":
                terms = self.parts[name].loss(batch, theirs, noise.stream("codec"), progress)
            else:
                terms = self.system.loss(self._encoded(batch, theirs, noise), theirs, noise.stream("prior"), progress)
            found |= {f"{name}.{term}": self.weights[name] * value for term, value in terms.items()}
        return found

    def _encoded(self, batch: Batch, player: int, noise: Noise) -> Batch:
        """The batch with its z, from the codec's noise begun anew; for a further player of the prior z is data."""
        codec = self.system.codec
        with torch.set_grad_enabled(torch.is_grad_enabled() and player == 0):
            return {**batch, "latent": codec.latent(codec.take(batch), noise.stream("codec"))}

    def _turns(self) -> list[list[tuple[str, int]]]:
        """Of each player: (part, which of its players)."""
        others = [(name, k) for name, part in self.parts.items() for k in range(1, len(part.players()))]
        return [[(name, 0) for name in self.parts], *([one] for one in others)]

    def players(self) -> list[list[nn.Parameter]]:
        theirs = {name: part.players() for name, part in self.parts.items()}
        seen: set[int] = set()
        found = []
        for turns in self._turns():
            player = {id(p): p for name, k in turns for p in theirs[name][k] if id(p) not in seen}
            seen |= player.keys()
            found.append(list(player.values()))
        return found

    def prepare(self, batches: Batches) -> None:
        codec = self.parts["codec"]
        codec.prepare(batches)
        codec.finish(batches)
        self.system.prepare(batches)

    def settle(self, noise: Noise | None = None) -> None:
        for name, part in self.parts.items():
            part.settle(None if noise is None else noise.stream(name))

    def forget(self) -> None:
        for part in self.parts.values():
            part.forget()

    def finish(self, batches: Batches) -> None:
        """The prior's alone; the codec's was due before the first step."""
        self.system.finish(batches)

    def diagnostics(self) -> dict[str, float]:
        return {f"{name}.{key}": x for name, part in self.parts.items() for key, x in part.diagnostics().items()}

    def train(self, mode: bool = True) -> Joint:
        """The codec learns, which a system holds frozen."""
        super().train(mode)
        self.system.codec.stage.train(mode)
        return self
