"""VQ-VAE's bottleneck (arXiv:1711.00937): the nearest of K codes, k(h) = argmin_k ‖h − e_k‖².

    decoder input   h + sg(e_k − h)               the gradient passes the lookup unchanged
    commitment      b mean (h − sg e_k)²          moves the encoder; b = 0.25 belongs here and not on the other term
    codes, "loss"   mean (sg h − e_k)²            or
    codes, "ema"    N_k ← g N_k + (1 − g) n_k     n_k how many h of the step chose k,
                    m_k ← g m_k + (1 − g) Σ h     the sum of these h,
                    e_k = m_k / Ñ_k               Ñ_k = (N_k + ε) / (ΣN + K ε) · ΣN

where g = min(decay, (1 + n) / (10 + n)) at step n: the encoder moves fastest at first, and its codes must keep up.
Means are over positions and channels. Three things keep a large alphabet in use: codes start as the centres of k-means;
a code that is chosen `restart` times less often than the average starts anew at an h of the current step; and `cosine`
compares on the unit sphere, in few dimensions (arXiv:2110.04627).

The forward pass only gathers n, Σh and a few h. `settle` sums them over all processes and applies them, so that codes
are the same everywhere, and a step that is skipped (`forget`) leaves no trace.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, distributed, nn

from sfumato.codecs.bottlenecks import Bottleneck
from sfumato.core.contracts import Terms
from sfumato.core.errors import Misfit
from sfumato.core.noise import Noise
from sfumato.core.space import Grid, Space, Tokens
from sfumato.core.tensors import over_processes

CHUNK = 2**24  # entries of the distance table at a time: 64 MiB


def _spread(tensor: Tensor) -> Tensor:
    """What the first process has, everywhere."""
    if distributed.is_available() and distributed.is_initialized():
        distributed.broadcast(tensor, 0)
    return tensor


def nearest(vectors: Tensor, codes: Tensor) -> Tensor:
    """(R, d), (K, d) → (R,): argmin_k ‖v − e_k‖² = argmax_k v·e_k − ½‖e_k‖². In float32 at least: half precision loses
    the argmin. Distances are taken from the codes' mean, which changes none of them and keeps more digits."""
    wide = torch.promote_types(vectors.dtype, torch.float32)
    with torch.no_grad(), torch.autocast(vectors.device.type, enabled=False):
        centre = codes.to(wide).mean(0)
        vectors, codes = vectors.to(wide) - centre, codes.to(wide) - centre
        half = -codes.square().sum(1) / 2
        parts = vectors.split(max(1, CHUNK // len(codes)))
        return torch.cat([torch.addmm(half, part, codes.T).argmax(1) for part in parts])


def tally(vectors: Tensor, chosen: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """How often each code was chosen (K,), and the sum of what chose it (K, d); by products of matrices, since
    scattered sums come out differently from run to run on a GPU."""
    counts, sums = vectors.new_zeros(k), vectors.new_zeros(k, vectors.shape[1])
    step = max(1, CHUNK // k)
    for part, at in zip(vectors.split(step), chosen.split(step)):
        ones = F.one_hot(at, k).to(vectors)
        counts += ones.sum(0)
        sums += ones.T @ part
    return counts, sums


def k_means(vectors: Tensor, k: int, draws: Tensor, rounds: int = 10) -> tuple[Tensor, Tensor]:
    """Lloyd's k centres of (R, d), and how many vectors each has. It starts from k of the vectors in the order of
    `draws` (R,) uniform numbers; centres that nobody chooses keep their place. With fewer vectors than centres the rest
    are copies, moved apart by a hundredth of the data's deviation."""
    order = draws.argsort()
    centres = vectors[order[torch.arange(k, device=vectors.device) % len(order)]].clone()
    if k > len(vectors):
        spare = (
            torch.linspace(-1, 1, (k - len(vectors)) * vectors.shape[1]).to(vectors).sin().view(-1, vectors.shape[1])
        )
        centres[len(vectors) :] += spare * vectors.std(correction=0) / 100
    counts = vectors.new_zeros(k)
    for _ in range(rounds):
        counts, sums = tally(vectors, nearest(vectors, centres), k)
        centres = torch.where(counts[:, None] > 0, sums / counts.clamp(min=1)[:, None], centres)
    return centres, counts


class Codebook(Bottleneck):
    """K codes of d numbers. With `features` the latent is h itself, a Grid, which latent diffusion and deep VAEs model,
    and the lookup belongs to the decoder; otherwise it is the Tokens k(h)."""

    codes: Tensor
    counts: Tensor
    sums: Tensor
    fitted: Tensor
    age: Tensor
    usage: Tensor

    def __init__(
        self,
        vocab: int,
        width: int,
        mode: Literal["ema", "loss"] = "ema",
        commitment: float = 0.25,
        decay: float = 0.99,
        cosine: bool = False,
        restart: float = 0.03,
        features: bool = False,
    ):
        super().__init__()
        if mode not in ("ema", "loss"):
            raise ValueError(f'Codes learn by "ema" or by "loss", not {mode!r}.')
        self.inputs, self.width, self.vocab = width, width, vocab
        self.mode, self.commitment, self.decay = mode, commitment, decay
        self.cosine, self.restart, self.features = cosine, restart, features
        self.kind, self.unit = (None, False) if features else ("bound", True)
        codes = self._placed(torch.randn(vocab, width))
        if mode == "loss":
            self.codes = nn.Parameter(codes)
        else:
            self.register_buffer("codes", codes)
            self.register_buffer("sums", codes.clone())
        self.register_buffer("counts", torch.ones(vocab))
        self.register_buffer("fitted", torch.zeros((), dtype=torch.bool))
        self.register_buffer("age", torch.zeros((), dtype=torch.int64))
        self.register_buffer("usage", torch.zeros(vocab), persistent=False)  # since the last diagnostics
        self._gathered: list[tuple[Tensor, Tensor, Tensor]] = []
        self._restarts = 0

    def space(self, layout: tuple[int, int]) -> Space:
        return Grid(self.width, *layout) if self.features else Tokens(layout[0] * layout[1], self.vocab, layout)

    def _placed(self, vectors: Tensor) -> Tensor:
        return F.normalize(vectors, dim=-1) if self.cosine else vectors

    def _table(self) -> Tensor:
        """The codes as the decoder meets them (K, d)."""
        return self._placed(self.codes)

    def _rows(self, h: Tensor) -> Tensor:
        """(B, d, H, W) → (B H W, d), in float32 at least."""
        wide = torch.promote_types(h.dtype, torch.float32)
        return self._placed(h.movedim(1, -1).flatten(0, -2).to(wide))

    def _plane(self, rows: Tensor, like: Tensor) -> Tensor:
        return rows.unflatten(0, (like.shape[0], *like.shape[2:])).movedim(-1, 1)

    def forward(self, h: Tensor, noise: Noise, progress: float, dims: int) -> tuple[Tensor, Terms]:
        rows = self._rows(h)
        table = self._table().to(rows.dtype)
        chosen = nearest(rows, table)
        # under no_grad (a validation loss, the critic's turn) nothing is gathered: a step counts its pictures once
        if self.training and torch.is_grad_enabled():
            self._gather(rows.detach(), chosen)
        codes = F.embedding(chosen, table)
        terms = {"commitment": self.commitment * F.mse_loss(rows, codes.detach())}
        if self.mode == "loss":
            terms["codes"] = F.mse_loss(codes, rows.detach())
        passed = codes.detach() + (rows - rows.detach())  # exactly the code, with the gradient of h
        return self._plane(passed, h).to(h.dtype), terms

    def encode(self, h: Tensor) -> Tensor:
        rows = self._rows(h)
        if self.features:
            return self._plane(rows, h).to(h.dtype)
        return self._plane(nearest(rows, self._table())[:, None], h).squeeze(1)

    def embed(self, z: Tensor) -> Tensor:
        if not self.features:
            return F.embedding(z, self._table()).movedim(-1, 1)
        code = F.embedding(self.nearest(z), self._table()).movedim(-1, 1)
        return code + (z - z.detach())

    def nearest(self, code: Tensor) -> Tensor:
        return self._plane(nearest(self._rows(code), self._table())[:, None], code).squeeze(1)

    def lift(self, h: Tensor, noise: Noise) -> tuple[Tensor, Tensor]:
        if self.features:
            raise Misfit("The features before a lookup are a deterministic map of x, so there is no likelihood.")
        return super().lift(h, noise)

    def blend(self, a: Tensor, b: Tensor, weight: float) -> Tensor:
        return torch.lerp(a, b, weight) if self.features else super().blend(a, b, weight)

    # ── changes without a gradient ───────────────────────────────────────────────────────────────────────────────────

    def _gather(self, rows: Tensor, chosen: Tensor) -> None:
        counts, sums = tally(rows, chosen, self.vocab)
        few = rows[:: max(1, len(rows) // (4 * self.vocab))][: 4 * self.vocab]
        self._gathered.append((counts, sums, few))

    @torch.no_grad()
    def fit(self, features: Callable[[], Iterable[Tensor]]) -> None:
        """k-means on up to 32 vectors a code, before the first step."""
        if self.fitted:
            return
        rows, wanted = [], 32 * self.vocab
        for h in features():
            rows.append(self._rows(h))
            wanted -= len(rows[-1])
            if wanted <= 0:
                break
        if rows:
            self._start(torch.cat(rows)[: 32 * self.vocab], Noise.shared(0, 1, device=rows[0].device))

    def _start(self, rows: Tensor, noise: Noise) -> None:
        centres, counts = k_means(rows.to(self.codes), self.vocab, noise.uniform(len(rows))[0])
        # every code starts with the average weight: what k-means found rare has time to find its own
        self._put(torch.arange(self.vocab, device=centres.device), centres, counts.sum() / self.vocab)
        self.fitted.fill_(True)

    def _put(self, which: Tensor, codes: Tensor, weight: Tensor) -> None:
        codes = _spread(self._placed(codes).contiguous())
        self.codes.data[which] = codes.to(self.codes)
        self.counts[which] = weight
        if self.mode == "ema":
            self.sums[which] = codes.to(self.sums) * weight

    @torch.no_grad()
    def settle(self, noise: Noise | None) -> None:
        if not self._gathered:
            return
        gathered, self._gathered = self._gathered, []
        counts, sums, few = (list(part) for part in zip(*gathered))
        n, m = over_processes(torch.stack(counts).sum(0)), over_processes(torch.stack(sums).sum(0))
        rows = torch.cat(few)
        noise = Noise.ambient(1, rows.device) if noise is None else noise
        self.usage += n
        if not self.fitted:
            self._start(rows, noise)
            return
        decay = min(self.decay, (1 + int(self.age)) / (10 + int(self.age)))
        self.age += 1
        self.counts.mul_(decay).add_(n, alpha=1 - decay)
        if self.mode == "ema":
            self.sums.mul_(decay).add_(m, alpha=1 - decay)
            everyone = self.counts.sum()
            smooth = (self.counts + 1e-5) / (everyone + self.vocab * 1e-5) * everyone
            self.codes.copy_(self._placed(self.sums / smooth[:, None]))
        self._revive(rows, noise)

    def _revive(self, rows: Tensor, noise: Noise) -> None:
        average = self.counts.mean()
        dead = (self.counts < self.restart * average).nonzero()[:, 0]
        if len(dead):
            self._restarts += len(dead)
            order = noise.uniform(len(rows))[0].argsort()
            self._put(dead, rows[order[torch.arange(len(dead), device=order.device) % len(order)]], average)

    def forget(self) -> None:
        self._gathered = []

    def diagnostics(self) -> dict[str, float]:
        """Over all positions since the last call: exp of the entropy of the codes' frequencies, the part of the codes
        that was chosen at all, and how many codes started anew."""
        found = self.meter.read()
        if everyone := float(self.usage.sum()):
            frequency = self.usage / everyone
            found["perplexity"] = float(torch.special.entr(frequency).sum().exp())
            found["usage"] = float((self.usage > 0).float().mean())
            found["restarts"] = float(self._restarts)
        self.usage.zero_()
        self._restarts = 0
        return found
