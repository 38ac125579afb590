"""A caption becomes a sequence to attend to, and a vector that modulates.

    tokens = words(y) (B, T);  h = network(tokens) (B, T, D)
    sequence = h;  vector = Σ_t m_t h_t / Σ_t m_t,  m_t = 1 where a word is

As in latent diffusion (arXiv:2112.10752) the encoder is a transformer of our own, learned together with the prior.
The null condition is the empty caption, and is learned by dropping captions with probability `drop`.
"""

from __future__ import annotations

from typing import Protocol

from torch import Tensor, nn

from sfumato.core.condition import Condition
from sfumato.core.contracts import Batches, Conditioner, Given
from sfumato.core.noise import Noise
from sfumato.core.tensors import pick


class Tokeniser(Protocol):
    """The part of `codecs.Words` that is needed here."""

    def encode(self, x: list[str]) -> Tensor: ...

    def mask(self, z: Tensor) -> Tensor: ...

    def prepare(self, batches: Batches) -> None: ...


class Text(Conditioner):
    """given["text"] list of B strings → sequence (B, T, D) with mask, and vector (B, D).

    `words` turns strings into ids (B, T) and tells where a word is; `network` is (ids, mask) → (B, T, D).
    """

    keys = ("text",)

    def __init__(self, words: Tokeniser, network: nn.Module, drop: float = 0.1):
        super().__init__()
        self.words, self.network, self.drop = words, network, drop

    def forward(self, given: Given, noise: Noise | None = None) -> Condition:
        texts = ["" if text is None else text for text in given["text"]]
        tokens = self._tokens(texts)
        if noise is None:
            return self._embed(tokens)
        tokens = pick(noise.uniform() < self.drop, self._tokens([""] * len(texts)), tokens)
        # Padding is masked everywhere, so training need not carry more of it than the longest caption asks for.
        # Sampling does: there a row must not depend on its mates, not even in the last bit.
        longest = int(self.words.mask(tokens).sum(1).max())
        return self._embed(tokens[:, : max(longest, 1)])

    def null(self, rows: int) -> Condition:
        return self._embed(self._tokens([""]).expand(rows, -1))

    def prepare(self, batches: Batches) -> None:
        self.words.prepare(batches)

    def _tokens(self, texts: list[str]) -> Tensor:
        device = next(self.network.parameters()).device
        return self.words.encode(texts).to(device)

    def _embed(self, tokens: Tensor) -> Condition:
        mask = self.words.mask(tokens)
        h = self.network(tokens, mask)
        weight = mask.to(h.dtype)[..., None]
        vector = (h * weight).sum(1) / weight.sum(1).clamp_min(1)
        return Condition(len(tokens), vector=vector, sequence=h, mask=mask)
