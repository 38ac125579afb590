"""The tokens of a codec, read as a condition: a caption's words before a picture, a picture's tokens before a caption.

    z = codec.encode(y) (B, N),     sequence_i = E[z_i] + p_i     (B, N, width),     mask: what of z says something

The sequence stands before what a causal net draws, or is attended by any other. The null condition is one learned
vector in place of them all, and is learned by dropping with probability `drop`.

Sources: both directions, the source in full attention, Zhang et al. 2021, arXiv:2112.15283; stable tokens before a
picture's own, Zhu et al. 2024, arXiv:2410.12490.
"""

from __future__ import annotations

import contextlib
from typing import Any

import torch
from torch import Tensor, nn

from sfumato.core.condition import Condition, choose
from sfumato.core.contracts import Batches, Codec, Conditioner, Given
from sfumato.core.errors import Misfit, UsageError
from sfumato.core.noise import Noise
from sfumato.core.space import Tokens


class Reading(Conditioner):
    """given[what the codec reads] → sequence (B, N, width) with mask.

    `embed` (B, N) → (B, N, width) may be a net's own, shared; by default it is one of ours. `frozen`: the codec is not
    trained from here, nor put into training mode; tokens carry no gradient in either case.
    """

    def __init__(
        self, codec: Codec, width: int, embed: nn.Module | None = None, *, drop: float = 0.1, frozen: bool = True
    ):
        super().__init__()
        if not isinstance(codec.space, Tokens):
            raise Misfit(f"A reading is of tokens, and {type(codec).__name__} yields {codec.space}.")
        self.keys = (codec.reads,) if isinstance(codec.reads, str) else tuple(codec.reads)
        self.codec, self.drop, self.frozen = codec, drop, frozen
        self.embed = nn.Embedding(codec.space.vocab, width) if embed is None else embed
        self.places = nn.Parameter(0.02 * torch.randn(codec.space.length, width))
        self.nothing = nn.Parameter(0.02 * torch.randn(width))
        if embed is None:
            nn.init.normal_(self.embed.weight, std=0.02)  # type: ignore[arg-type]

    def forward(self, given: Given, noise: Noise | None = None) -> Condition:
        z = self._tokens(given)
        spoken: Any = getattr(self.codec, "mask", None)
        mask = torch.ones_like(z, dtype=torch.bool) if spoken is None else spoken(z)
        condition = Condition(len(z), sequence=self.embed(z) + self.places, mask=mask)
        if noise is None:
            return condition
        return choose(noise.uniform() >= self.drop, condition, self.null(len(z)))

    def null(self, rows: int) -> Condition:
        """One word at the first place; the others say nothing."""
        mask = torch.arange(len(self.places), device=self.nothing.device) == 0
        sequence = self.nothing.expand(rows, *self.places.shape)
        return Condition(rows, sequence=sequence, mask=mask.expand(rows, -1))

    def prepare(self, batches: Batches) -> None:
        self.codec.adapt(batches)

    def learns(self) -> list[nn.Parameter]:
        theirs = {id(parameter) for parameter in self.codec.parameters()} if self.frozen else set()
        return [parameter for parameter in self.parameters() if id(parameter) not in theirs]

    def train(self, mode: bool = True) -> Reading:
        super().train(mode)
        if self.frozen:
            self.codec.eval()
        return self

    def _tokens(self, given: Given) -> Tensor:
        missing = next((key for key in self.keys if given.get(key) is None), None)
        if missing is not None:
            raise UsageError(f"This condition is read from {' and '.join(self.keys)}, and no {missing!r} is given.")
        device = self.nothing.device
        said = {key: _entry(given[key], device) for key in self.keys}
        with torch.no_grad() if self.frozen else contextlib.nullcontext():
            return self.codec.encode(self.codec.take(said)).to(device)


def _entry(value: Any, device: torch.device) -> Any:
    """Pictures where the net is; a text that is not there is empty."""
    return value.to(device) if isinstance(value, Tensor) else ["" if one is None else one for one in value]
