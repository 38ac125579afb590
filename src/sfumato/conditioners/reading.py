"""The tokens of a codec, read as a condition: a caption's words before a picture, a picture's tokens before a caption.

    z = codec.encode(y) (B, N),     sequence_i = E[z_i] + p_i     (B, N, width),     mask: what of z says something

The sequence stands before what a causal net draws, or is attended by any other. The null condition is one learned
vector in place of them all, and is learned by dropping with probability `drop`.

By a `key` it hears what an earlier system of a cascade drew: y, which the codec encodes anew, or z where the tokens
themselves are drawn. A batch of training has y alone.

Sources: both directions, the source in full attention, Zhang et al. 2021, arXiv:2112.15283; stable tokens before a
picture's own, Zhu et al. 2024, arXiv:2410.12490.
"""

from __future__ import annotations

import contextlib
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sfumato.core.condition import Condition, choose
from sfumato.core.contracts import Batch, Batches, Codec, Conditioner, Given
from sfumato.core.errors import Misfit, UsageError
from sfumato.core.noise import Noise
from sfumato.core.space import Grid, Tokens, check


class Reading(Conditioner):
    """given[what the codec reads], or given[key], → sequence (B, N, width) with mask.

    Pictures of another size than the codec's are brought to it, by area. `embed` (B, N) → (B, N, width) may be a net's
    own, shared; by default it is one of ours. `frozen`: the codec is not trained from here, nor put into training mode;
    tokens carry no gradient in either case.
    """

    def __init__(
        self,
        codec: Codec,
        width: int,
        embed: nn.Module | None = None,
        *,
        key: str | None = None,
        drop: float = 0.1,
        frozen: bool = True,
    ):
        super().__init__()
        if not isinstance(codec.space, Tokens):
            raise Misfit(f"A reading is of tokens, and {type(codec).__name__} yields {codec.space}.")
        self.keys = (codec.reads,) if isinstance(codec.reads, str) else tuple(codec.reads)
        if key is not None:
            if len(self.keys) > 1:
                raise Misfit(
                    f"{type(codec).__name__} reads {' and '.join(self.keys)}, and a key is a name for one thing."
                )
            self.keys, self.made = (key,), {key: self.keys[0]}
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
        def seen(batch: Batch) -> Batch:
            return {**batch, "image": self._entry(batch["image"])} if "image" in batch else batch

        self.codec.adapt(lambda: map(seen, batches()))

    def learns(self) -> list[nn.Parameter]:
        theirs = {id(parameter) for parameter in self.codec.parameters()} if self.frozen else set()
        return [parameter for parameter in self.parameters() if id(parameter) not in theirs]

    def train(self, mode: bool = True) -> Reading:
        super().train(mode)
        if self.frozen:
            self.codec.eval()
        return self

    def _tokens(self, given: Given) -> Tensor:
        said = {key: _first(given, key, self.made.get(key, key)) for key in self.keys}
        missing = next((key for key, value in said.items() if value is None), None)
        if missing is not None:
            raise UsageError(f"This condition is read from {' and '.join(self.keys)}, and no {missing!r} is given.")
        only = said[self.keys[0]]
        if self.made and isinstance(only, Tensor) and not only.is_floating_point():
            return check(self.codec.space, only.to(self.nothing.device))
        x = {self.made.get(key, key): self._entry(value) for key, value in said.items()}
        with torch.no_grad() if self.frozen else contextlib.nullcontext():
            return self.codec.encode(self.codec.take(x)).to(self.nothing.device)

    def _entry(self, value: Any) -> Any:
        """Pictures where the net is, in the codec's size; a text that is not there is empty."""
        if not isinstance(value, Tensor):
            return ["" if one is None else one for one in value]
        value, data = value.to(self.nothing.device), self.codec.data
        if not isinstance(data, Grid) or value.ndim != 4 or value.shape[-2:] == data.shape[-2:]:
            return value
        return F.interpolate(value, data.shape[-2:], mode="area")


def _first(given: Given, *names: str) -> Any:
    return next((given[name] for name in names if given.get(name) is not None), None)
