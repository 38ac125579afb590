"""What an encoder's features h pass through: the bottleneck makes them a latent, and says what that costs.

    name      latent z                    q(z|x)               added to the loss, per data dimension (D of them)
    Open      h                           none                 penalty ‖z‖² / D
    Gaussian  μ + σ ε                     N(μ, diag σ²)        β KL(q ‖ N(0, I)) / D
    Codebook  argmin_k ‖h − e_k‖²         one-hot              b mean(h − sg e)²  [+ mean(sg h − e)²]
    Gumbel    argmax, trained relaxed     softmax(h)           β KL(q ‖ uniform) / D
    Finite    round(bounded h)            one-hot              nothing

With log p(x|z) / D beside them, β = 1 is the evidence lower bound exactly, in nats per data dimension.

Latents here are laid out in the plane: (B, d, H, W) float, or (B, H, W) int64; the autoencoder puts tokens in a row. A
bottleneck wants `inputs` channels of h and hands `width` channels to the decoder. Codebook lives in codebook.py.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sfumato.core.contracts import Kind, Terms
from sfumato.core.errors import Misfit
from sfumato.core.noise import Noise
from sfumato.core.space import Grid, Space, Tokens
from sfumato.core.tensors import against, per_image


class Meter:
    """Means of numbers since they were last read, kept on the device until then."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, int] = {}

    def add(self, **numbers: Tensor) -> None:
        for name, number in numbers.items():
            number = number.detach().float().mean()
            self._sums[name] = self._sums[name] + number if name in self._sums else number
            self._counts[name] = self._counts.get(name, 0) + 1

    def read(self) -> dict[str, float]:
        means = {name: float(total) / self._counts[name] for name, total in self._sums.items()}
        self._sums, self._counts = {}, {}
        return means


class Bottleneck(nn.Module, ABC):
    """Laws: encode is deterministic; embed(encode(h)) is what the decoder meets at sampling time; forward changes no
    state that is saved (what it gathers, `settle` applies and `forget` drops)."""

    inputs: int
    width: int
    kind: Kind | None = "bound"
    unit: bool = True  # whether continuous latents are near N(0, I) already, or wait for their mean and deviation
    embeds: bool = False  # whether `embed` is a learned 1×1 map by itself, so that none has to follow it

    def __init__(self) -> None:
        super().__init__()
        self.meter = Meter()

    @abstractmethod
    def space(self, layout: tuple[int, int]) -> Space: ...

    @abstractmethod
    def forward(self, h: Tensor, noise: Noise, progress: float, dims: int) -> tuple[Tensor, Terms]:
        """What the decoder is trained on (B, width, H, W), and the terms of the table above."""

    @abstractmethod
    def encode(self, h: Tensor) -> Tensor: ...

    @abstractmethod
    def embed(self, z: Tensor) -> Tensor: ...

    def lift(self, h: Tensor, noise: Noise) -> tuple[Tensor, Tensor]:
        """(z ~ q(z|x), log q (B,) in nats); a one-hot q unless a bottleneck knows better."""
        return self.encode(h), h.new_zeros(len(h))

    def blend(self, a: Tensor, b: Tensor, weight: float) -> Tensor:
        """On the line between the embeddings, and back to the alphabet."""
        return self.nearest(torch.lerp(self.embed(a), self.embed(b), weight))

    def nearest(self, code: Tensor) -> Tensor:
        raise Misfit(f"{type(self).__name__} has no alphabet.")

    def fit(self, features: Callable[[], Iterable[Tensor]]) -> None:
        """Before the first step; each call of `features` starts anew on the h of the training images."""

    def settle(self, noise: Noise | None) -> None: ...

    def forget(self) -> None: ...

    def diagnostics(self) -> dict[str, float]:
        return self.meter.read()


class Open(Bottleneck):
    """A plain autoencoder, or with `noise` one whose decoder forgives: it is trained on z + s std(z) ε.

    s counts in the batch's own deviations, so that the encoder cannot flee from the noise by growing. The penalty keeps
    latents in a range that a second stage can model.
    """

    kind = None
    unit = False

    def __init__(self, width: int, noise: float = 0.0, penalty: float = 1e-6):
        super().__init__()
        self.inputs = self.width = width
        self.noise, self.penalty = noise, penalty

    def space(self, layout: tuple[int, int]) -> Grid:
        return Grid(self.width, *layout)

    def forward(self, h: Tensor, noise: Noise, progress: float, dims: int) -> tuple[Tensor, Terms]:
        terms = {"penalty": self.penalty * per_image(h.square()).mean() / dims} if self.penalty else {}
        if not self.noise:
            return h, terms
        deviation = h.detach().float().std(correction=0).to(h)
        return h + self.noise * deviation * noise.normal(*h.shape[1:]).to(h), terms

    def encode(self, h: Tensor) -> Tensor:
        return h

    def embed(self, z: Tensor) -> Tensor:
        return z

    def lift(self, h: Tensor, noise: Noise) -> tuple[Tensor, Tensor]:
        raise Misfit("An open bottleneck has no q(z|x), so no likelihood; choose a Gaussian or a discrete one.")

    def blend(self, a: Tensor, b: Tensor, weight: float) -> Tensor:
        return torch.lerp(a, b, weight)


class Gaussian(Bottleneck):
    """VAE (arXiv:1312.6114): h carries μ and log σ².

    β KL with β rising from 0 over the first `warmup` of the progress; `free` nats of each channel cost nothing: a
    channel's KL counts as max(free, KL) (free bits, arXiv:1606.04934). A small β, as latent diffusion's 1e-6, leaves
    the latents at their own scale, so they are normalised at the end.
    """

    def __init__(self, width: int, beta: float = 1.0, warmup: float = 0.05, free: float = 0.0):
        super().__init__()
        self.inputs, self.width = 2 * width, width
        self.beta, self.warmup, self.free = beta, warmup, free
        self.unit = beta >= 0.1

    def space(self, layout: tuple[int, int]) -> Grid:
        return Grid(self.width, *layout)

    def posterior(self, h: Tensor) -> tuple[Tensor, Tensor]:
        """(μ, log σ²), the latter within what exp can bear in float32."""
        mean, log_var = h.chunk(2, 1)
        return mean, log_var.clamp(-30, 20)

    def _kl(self, mean: Tensor, log_var: Tensor) -> Tensor:
        """(B, d): nats of each channel, summed over its positions."""
        return (mean.square() + log_var.exp() - 1 - log_var).flatten(2).sum(2) / 2

    def forward(self, h: Tensor, noise: Noise, progress: float, dims: int) -> tuple[Tensor, Terms]:
        mean, log_var = self.posterior(h if h.dtype == torch.float64 else h.float())
        kl = self._kl(mean, log_var)
        self.meter.add(kl_nats=kl.sum(1))
        costs = kl.mean(0).clamp(min=self.free).sum() if self.free else kl.sum(1).mean()
        beta = self.beta * min(1.0, progress / self.warmup) if self.warmup else self.beta
        z = mean + (log_var / 2).exp() * noise.normal(*mean.shape[1:]).to(mean)
        return z.to(h), {"kl": beta * costs / dims}

    def encode(self, h: Tensor) -> Tensor:
        return self.posterior(h)[0]

    def embed(self, z: Tensor) -> Tensor:
        return z

    def lift(self, h: Tensor, noise: Noise) -> tuple[Tensor, Tensor]:
        mean, log_var = self.posterior(h)
        eps = noise.normal(*mean.shape[1:]).to(mean)
        log_q = -per_image(eps.square() + log_var + math.log(2 * math.pi)) / 2
        return mean + (log_var / 2).exp() * eps, log_q

    def blend(self, a: Tensor, b: Tensor, weight: float) -> Tensor:
        """Along the great circle (arXiv:1609.04468): in many dimensions a Gaussian's mass lies on a sphere, and the
        straight line's middle is far inside it. Nearly parallel or opposite latents are joined straight."""
        norms = per_image(a.square()).sqrt() * per_image(b.square()).sqrt()
        cosine = (per_image(a * b) / norms.clamp(min=1e-12)).clamp(-1, 1)
        angle = cosine.acos()
        straight = cosine.abs() > 1 - 1e-6
        sine = angle.sin().masked_fill(straight, 1.0)
        of_a = torch.where(straight, torch.full_like(angle, 1 - weight), ((1 - weight) * angle).sin() / sine)
        of_b = torch.where(straight, torch.full_like(angle, weight), (weight * angle).sin() / sine)
        return against(of_a, a) * a + against(of_b, b) * b


class Gumbel(Bottleneck):
    """dVAE (arXiv:2102.12092): q = softmax(h) at every position, K letters; trained on a point of the simplex,

        y = softmax((h + g) / τ),  g = −log(−log u),

    and its KL is that of the categorical q to the uniform one, without g and τ. τ falls by a cosine from 1 to `coolest`
    over the first `cooling` of the progress (linear cooling diverged in the paper), β rises by a cosine over the first
    `warmup`. `straight` hands the decoder the one-hot of y with y's gradient instead. Tokens are argmax h, no noise.
    β = 6.6 is the paper's, where 192 data dimensions share a position.
    """

    def __init__(
        self,
        vocab: int,
        width: int,
        beta: float = 6.6,
        warmup: float = 0.01,
        cooling: float = 0.25,
        coolest: float = 1 / 16,
        straight: bool = False,
    ):
        super().__init__()
        self.embeds = True
        self.inputs, self.width = vocab, width
        self.beta, self.warmup, self.cooling, self.coolest, self.straight = beta, warmup, cooling, coolest, straight
        # the 1×1 convolution of a one-hot is a table: a small receptive field here is what lets the relaxed bound
        # carry over to the true one
        self.table = nn.Conv2d(vocab, width, 1)

    def space(self, layout: tuple[int, int]) -> Tokens:
        return Tokens(layout[0] * layout[1], self.inputs, layout)

    def temperature(self, progress: float) -> float:
        done = min(1.0, progress / self.cooling) if self.cooling else 1.0
        return self.coolest + (1 - self.coolest) * (1 + math.cos(math.pi * done)) / 2

    def strength(self, progress: float) -> float:
        done = min(1.0, progress / self.warmup) if self.warmup else 1.0
        return self.beta * (1 - math.cos(math.pi * done)) / 2

    def relax(self, h: Tensor, noise: Noise, temperature: float) -> Tensor:
        soft = ((h + noise.gumbel(*h.shape[1:]).to(h)) / temperature).softmax(1)
        if not self.straight:
            return soft
        hard = F.one_hot(soft.argmax(1), self.inputs).movedim(-1, 1).to(soft)
        return hard + (soft - soft.detach())

    def forward(self, h: Tensor, noise: Noise, progress: float, dims: int) -> tuple[Tensor, Terms]:
        h = h if h.dtype == torch.float64 else h.float()
        log_q = h.log_softmax(1)
        kl = per_image((log_q.exp() * log_q).sum(1) + math.log(self.inputs))
        letters = log_q.exp().mean((0, 2, 3))
        self.meter.add(kl_nats=kl, perplexity=torch.special.entr(letters).sum().exp())
        with torch.autocast(h.device.type, enabled=False):
            code = self.table(self.relax(h, noise, self.temperature(progress)))
        return code, {"kl": self.strength(progress) * kl.mean() / dims}

    def encode(self, h: Tensor) -> Tensor:
        return h.argmax(1)

    def embed(self, z: Tensor) -> Tensor:
        code = F.embedding(z, self.table.weight[:, :, 0, 0].T)
        return (code if self.table.bias is None else code + self.table.bias).movedim(-1, 1)

    def lift(self, h: Tensor, noise: Noise) -> tuple[Tensor, Tensor]:
        z = (h + noise.gumbel(*h.shape[1:]).to(h)).argmax(1)
        return z, per_image(h.log_softmax(1).gather(1, z.unsqueeze(1)))

    def nearest(self, code: Tensor) -> Tensor:
        letters = self.embed(torch.arange(self.inputs, device=code.device))  # (K, width)
        flat = code.movedim(1, -1)
        return (flat @ letters.T - letters.square().sum(1) / 2).argmax(-1)


class Finite(Bottleneck):
    """FSQ (arXiv:2309.15505): d channels, channel i bounded and rounded to L_i values; Π L_i letters, nothing to learn.

    b = tanh(h + s) (L − 1)(1 + 10⁻³) / 2 − o,  with o = ½ for even L and s so that h = 0 gives b = 0; the code is
    round(b) / ⌊L / 2⌋, whose gradient passes through the rounding. A letter is a number of mixed radix.
    """

    def __init__(self, levels: tuple[int, ...] = (8, 5, 5, 5)):
        super().__init__()
        if any(level < 2 for level in levels):
            raise ValueError(f"Every channel needs at least two levels, not {levels}.")
        self.levels, self.inputs, self.width, self.vocab = levels, len(levels), len(levels), math.prod(levels)

    def space(self, layout: tuple[int, int]) -> Tokens:
        return Tokens(layout[0] * layout[1], self.vocab, layout)

    def _bounded(self, h: Tensor) -> Tensor:
        h = h if h.dtype == torch.float64 else h.float()
        levels = h.new_tensor(self.levels).view(-1, 1, 1)
        half, offset = (levels - 1) * (1 + 1e-3) / 2, torch.where(levels % 2 == 0, 0.5, 0.0)
        return (h + torch.atanh(offset / half)).tanh() * half - offset

    def _halves(self, like: Tensor) -> Tensor:
        return like.new_tensor([level // 2 for level in self.levels]).view(-1, 1, 1)

    def _letters(self, steps: Tensor) -> Tensor:
        """Rounded b (B, d, H, W), from −⌊L / 2⌋ up, to the number (B, H, W)."""
        digits = (steps + self._halves(steps)).long()
        places = digits.new_tensor([math.prod(self.levels[:i]) for i in range(self.width)]).view(-1, 1, 1)
        return (digits * places).sum(1)

    def forward(self, h: Tensor, noise: Noise, progress: float, dims: int) -> tuple[Tensor, Terms]:
        bounded = self._bounded(h)
        steps = bounded.round()
        letters = self._letters(steps.detach())
        used = torch.bincount(letters.flatten(), minlength=self.vocab) / letters.numel()
        self.meter.add(perplexity=torch.special.entr(used).sum().exp())
        return (steps.detach() + (bounded - bounded.detach())) / self._halves(bounded), {}

    def encode(self, h: Tensor) -> Tensor:
        return self._letters(self._bounded(h).round())

    def embed(self, z: Tensor) -> Tensor:
        places = [math.prod(self.levels[:i]) for i in range(self.width)]
        digits = torch.stack([(z // place) % level for place, level in zip(places, self.levels)], 1).float()
        halves = self._halves(digits)
        return (digits - halves) / halves

    def nearest(self, code: Tensor) -> Tensor:
        halves = self._halves(code)
        top = code.new_tensor(self.levels).view(-1, 1, 1) - 1 - halves
        return self._letters((code * halves).round().clamp(-halves, top))
