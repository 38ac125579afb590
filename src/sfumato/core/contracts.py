"""The contracts: what a codec, a prior, a conditioner and an objective promise to each other.

    codec         x ↔ z                     prior   p(z | c)                conditioner   y → c
    log p(x | y) ≥ E[log p(z | c) + w],     (z, w) = codec.lift(x)

One formula covers every likelihood. For an exact codec z = f(x) and w = log |det ∂f/∂x|, with equality. For a
variational one z ~ q(z|x) and w = log p(x|z) − log q(z|x). For a quantising one q is one-hot and w = log p(x|z).

A batch is a dict: "image" (B, C, H, W) float in [−1, 1], "label" (B,) int64, "text" list of B strings, "index" (B,)
int64 (which row of the set). A codec says by `reads` which entry it encodes: the image, the text, or both, side by
side; "latent" stands for it when latents were encoded before. Whatever the set lacks is absent. `given`, what a
condition is made from, is the same dict without the entry that it describes.

Every loss returns terms that add up, with weight one. `noise` is the source of randomness (None: torch's own) and
`progress` in [0, 1] is how far the training stage has come; schedules are functions of it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal, Protocol, runtime_checkable

from torch import Tensor, nn
from torch.nn import functional as F

from sfumato.core.condition import Condition
from sfumato.core.errors import Misfit
from sfumato.core.noise import Noise
from sfumato.core.space import Grid, Space, Tokens

Batch = Mapping[str, Any]
Given = Mapping[str, Any]
Terms = dict[str, Tensor]
Batches = Callable[[], Iterable[Batch]]  # each call starts anew, so that a fit may pass over the data twice
Kind = Literal["exact", "bound"]
Known = tuple[Tensor, Tensor]  # a latent, and a bool mask of its shape: True where the latent is given
Entry = Literal["image", "text"]  # of a batch
Latents = Callable[[], Iterable[tuple[Tensor, Condition]]]  # the same pass over the data, as a prior sees it


@runtime_checkable
class Objective(Protocol):
    """What the training loop drives: one stage, with one player or two that take turns on the same batch."""

    def loss(self, batch: Batch, player: int = 0, noise: Noise | None = None, progress: float = 1.0) -> Terms:
        """Scalar terms for `player`; their sum is minimised over players()[player] alone."""
        ...

    def players(self) -> list[list[nn.Parameter]]:
        """The parameters of each player; disjoint."""
        ...

    def prepare(self, batches: Batches) -> None:
        """Before the first step: what is fitted in closed form (a vocabulary, k-means codes)."""
        ...

    def settle(self, noise: Noise | None = None) -> None:
        """After an accepted step: changes that come without a gradient (EMA codes, restarts). A skipped step
        forgets them instead, by `forget`."""
        ...

    def forget(self) -> None:
        """After a skipped step: drops what the losses since the last `settle` had gathered."""
        ...

    def finish(self, batches: Batches) -> None:
        """After the last step, on the averaged weights: what is measured on the result (the scale of latents)."""
        ...

    def diagnostics(self) -> dict[str, float]:
        """Numbers for the log since the last call (perplexity, usage); never optimised."""
        ...


class Codec(nn.Module, ABC):
    """Data x ↔ latent z in `space`.

    x is a batch's entry `reads`: images (B, C, H, W), texts (B strings), or of two entries a tuple of both.

    Laws: decode(encode(x)) has the shape of x. encode is deterministic (the mean or mode of q). Where `exact`,
    decode inverts encode. A codec that `decodes` nothing (an embedding) writes no `decode`. A learned codec is an
    Objective; the defaults here make the others one with nothing to learn.
    """

    space: Space
    data: Space  # what x is: Grid(C, H, W) for images, Tokens(T, K) for texts; of two entries, the images'
    reads: Entry | tuple[Entry, ...] = "image"
    holds: tuple[Entry, ...] = ()  # the entries that may be given, each of which fixes a part of the latent: see `hold`
    exact: bool = False
    decodes: bool = True  # whether x can be had of z alone; an embedding says what x means, and another system draws it
    learned: bool = False
    discrete: bool = False  # whether log-probabilities of x are of 8-bit values (nats), not densities on [−1, 1]
    kind: Kind | None = None  # what `lift` gives; None: this codec has no likelihood
    factors: tuple[int, ...] = ()  # by which a picture may be made smaller that is then a part of the latent

    @abstractmethod
    def encode(self, x: Tensor) -> Tensor: ...

    def decode(self, z: Tensor) -> Tensor:
        raise Misfit(
            f"{type(self).__name__} yields {self.space}, which it cannot decode. A cascade draws from it: as its next "
            "system take one that is conditioned on what this one yields."
        )

    def take(self, batch: Batch) -> Any:
        """x, out of a batch."""
        return batch[self.reads] if isinstance(self.reads, str) else tuple(batch[entry] for entry in self.reads)

    def hold(self, given: Given, rows: int) -> Known:
        """What the entries of `given` that are among `holds` fix of the latents. Of none of them: what stands for
        "nothing given" in guidance."""
        raise Misfit(f"No entry that is given fixes a part of what {type(self).__name__} yields.")

    def lift(self, x: Tensor, noise: Noise | None = None) -> tuple[Tensor, Tensor]:
        """(z, w) of the formula above; w (B,) in nats."""
        raise Misfit(
            f"{type(self).__name__} is a deterministic map onto continuous latents, so p(x) has no density through it. "
            "Choose a Gaussian or a discrete bottleneck, or measure distances between samples instead."
        )

    def latent(self, x: Tensor, noise: Noise) -> Tensor:
        """What a prior learns from, z of the formula above: a draw where q(z|x) has a width (dequantised pixels, a
        VAE), else encode(x). Latents that are kept on disk are encode(x) always."""
        return self.encode(x)

    def blend(self, a: Tensor, b: Tensor, weight: float) -> Tensor:
        """A latent between two, in whatever way suits the space; weight 0 gives a, 1 gives b."""
        raise Misfit(f"{type(self).__name__} has no in-between of two latents.")

    def reach(self, hole: Tensor) -> Tensor:
        """Which entries of the latent depend on the pixels in a hole (B, 1, H, W) bool: the latent's shape, bool. By
        default a cell of the layout depends on the pixels under it."""
        layout = self.space.layout
        if layout is None:
            raise Misfit(f"{self.space} has no layout in the plane, so a part of the image is no part of the latent.")
        cells = F.adaptive_max_pool2d(hole.float(), layout) > 0
        if isinstance(self.space, Grid):
            return cells.expand(-1, self.space.channels, -1, -1)
        cells = cells.flatten(1)
        return cells if isinstance(self.space, Tokens) else cells[..., None].expand(-1, -1, self.space.width)

    @property
    def cell(self) -> int:
        """The least number of pixels by which a picture can move so that its latent moves along."""
        layout = self.space.layout
        if layout is None:
            raise Misfit(f"{self.space} has no layout in the plane, so a latent does not move along with its picture.")
        assert isinstance(self.data, Grid)
        return max(self.data.width // layout[1], 1)

    def smaller(self, factor: int) -> tuple[int, ...]:
        """The shape of a picture whose pixels are means over factor × factor ones of the data's."""
        assert isinstance(self.data, Grid)
        return (self.data.channels, self.data.height // factor, self.data.width // factor)

    def magnify(self, small: Tensor) -> Known:
        """What a smaller picture, one of `factors` by area averages, says of the latent of the whole one."""
        if not self.factors:
            raise Misfit(
                f"No part of what {type(self).__name__} yields is a smaller picture. Take a run of gud-wavelet or "
                "gud-wavelet-columns, whose coarse components are; or train a cascade, which learns to enlarge."
            )
        shapes = " or ".join(" × ".join(map(str, self.smaller(factor))) for factor in self.factors)
        raise Misfit(f"A picture to be enlarged has {shapes} values here, not {' × '.join(map(str, small.shape[1:]))}.")

    @property
    def of_values(self) -> bool:
        """Whether the latents are 8-bit values on a grid, of which a prior must say probabilities and no density."""
        return isinstance(self.space, Grid) and self.discrete and self.kind == "exact"

    @property
    def stage(self) -> Codec:
        """What of it learns in the stage "codec"."""
        return self

    def adapt(self, batches: Batches) -> None:
        """Before a prior's first step: what is measured once all that learns is frozen."""
        if not self.learned:
            self.prepare(batches)

    def loss(self, batch: Batch, player: int = 0, noise: Noise | None = None, progress: float = 1.0) -> Terms:
        raise Misfit(f"{type(self).__name__} has nothing to learn.")

    def players(self) -> list[list[nn.Parameter]]:
        return [list(self.parameters())]

    def prepare(self, batches: Batches) -> None: ...

    def settle(self, noise: Noise | None = None) -> None: ...

    def forget(self) -> None: ...

    def finish(self, batches: Batches) -> None: ...

    def diagnostics(self) -> dict[str, float]:
        return {}


class Prior(nn.Module, ABC):
    """p(z | c) on the kinds of space it names.

    Laws: sample(c, noise)[i] depends on row i of c and of noise alone. `sample` takes keyword options of its own
    (steps, temperature, …), all with defaults, beside: null and guidance (p = u + s (c − u), 1 is unguided), and known.
    A prior that takes `null_known` holds that, where something is known, in the rows where it computes the unguided u.
    """

    spaces: tuple[type, ...]
    varying: bool = False  # whether it models sequences of varying length too
    space: Space
    kind: Kind | None = None
    discrete: bool = False  # whether log_prob is of 8-bit values on a grid, not a density
    hears_all: bool = False  # whether `loss` wants, beside the condition of which rows were dropped, its `full`

    @abstractmethod
    def loss(self, z: Tensor, condition: Condition, noise: Noise, progress: float = 1.0, player: int = 0) -> Terms: ...

    @abstractmethod
    def sample(
        self,
        condition: Condition,
        noise: Noise,
        *,
        null: Condition | None = None,
        guidance: float = 1.0,
        known: Known | None = None,
        **options: Any,
    ) -> Tensor: ...

    # What follows is the Objective's, as a prior has its share in it; System adds the conditioner to player 0.

    def players(self) -> list[list[nn.Parameter]]:
        return [list(self.parameters())]

    def prepare(self, latents: Latents) -> None: ...

    def settle(self, noise: Noise | None = None) -> None: ...

    def forget(self) -> None: ...

    def finish(self, latents: Latents) -> None: ...

    def diagnostics(self) -> dict[str, float]:
        return {}

    def log_prob(self, z: Tensor, condition: Condition, noise: Noise) -> Tensor:
        """(B,) in nats; exact or a lower bound, as `kind` says."""
        raise Misfit(f"{type(self).__name__} has no log-probability.")


class Conditioner(nn.Module, ABC):
    """y → Condition. `keys` names what it reads from `given`; `drop` is the probability with which `forward` replaces a
    row by the null condition when it is handed noise (as training does and sampling does not).

    A key that `made` has need not be in a batch: where it is absent, the conditioner makes it of the entry that `made`
    says (a lower resolution, an embedding, the tokens of the image). So a cascade's systems, each given what an earlier
    one drew, learn from the data alone."""

    keys: tuple[str, ...]
    made: Mapping[str, str] = {}  # key → entry of a batch
    drop: float = 0.1

    def hears(self, given: Given) -> bool:
        """Whether anything that it reads is there, or can be made."""
        return any(given.get(key) is not None or given.get(self.made.get(key, key)) is not None for key in self.keys)

    @abstractmethod
    def forward(self, given: Given, noise: Noise | None = None) -> Condition: ...

    @abstractmethod
    def null(self, rows: int) -> Condition:
        """The learned stand-in for "nothing given", with the same doors open."""

    def prepare(self, batches: Batches) -> None: ...

    def learns(self) -> list[nn.Parameter]:
        """What a prior's stage trains of it."""
        return list(self.parameters())
