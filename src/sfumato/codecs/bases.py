"""A picture in another basis: an orthogonal map, the data's mean taken away, and a share of each component's size.

    z = S⁻¹ U (x − m),   S = diag(s),  s_i = Σ_i^{r/2},   Σ_i = E[(U (x − m))_i²] + floor
    log p(x) = log p(z) − Σ_i log s_i                                                          an equality of densities

r = 0 leaves the components as they are; r = 1 whitens them (GUD, arXiv:2410.02667: the prior of a diffusion in z is
then N(m, Uᵀ S² U), noise shaped like the data). The floor is what rounding to 8 bits adds, (1/127.5)²/12: no component
of dequantised pictures has less, and dividing by less would make that noise loud.

Variances are pooled over the groups of the map (orthogonal.py). Where it is local the mean is one number a channel too,
so that what is true of one place is true of all, and pictures can grow beyond their border. Elsewhere it is a picture.

`Through` sends the latents of another codec through a basis: log-determinants add up.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from sfumato.codecs.orthogonal import Orthogonal
from sfumato.core.contracts import Batch, Batches, Codec, Kind, Known, Terms
from sfumato.core.errors import Misfit
from sfumato.core.noise import Noise
from sfumato.core.space import Grid, Space

FLOOR = (1 / 127.5) ** 2 / 12  # the variance of u / 127.5, u ~ U(−½, ½)
ENOUGH = 50_000  # pictures to measure mean and variances on


class Components(Codec):
    """data Grid → the map's space. `exponent` is r. `eight_bit`: the data are 8-bit values, so that a prior over them
    learns from x + (u − ½) / 127.5, u ~ U[0, 1). Everything measured is a buffer."""

    exact = True
    kind: Kind | None = "exact"
    data: Grid
    mean: Tensor
    variance: Tensor

    def __init__(self, orthogonal: Orthogonal, exponent: float = 0.0, eight_bit: bool = True):
        super().__init__()
        self.orthogonal, self.exponent, self.eight_bit = orthogonal, exponent, eight_bit
        self.data, self.space = orthogonal.data, orthogonal.space
        self.register_buffer("mean", torch.zeros(self.data.shape))
        self.register_buffer("variance", torch.ones(self.space.shape))

    @property
    def scale(self) -> Tensor:
        """s, in the latent's shape."""
        return self.variance ** (self.exponent / 2)

    def encode(self, x: Tensor) -> Tensor:
        c = self.orthogonal.turn(x - self.mean.to(x))
        return c if self.exponent == 0 else c / self.scale.to(x)

    def latent(self, x: Tensor, noise: Noise) -> Tensor:
        if not self.eight_bit:
            return self.encode(x)
        return self.encode(x + (noise.uniform(*x.shape[1:]).to(x) - 0.5) / 127.5)

    def decode(self, z: Tensor) -> Tensor:
        c = z if self.exponent == 0 else z * self.scale.to(z)
        return self.orthogonal.back(c) + self.mean.to(z)

    def lift(self, x: Tensor, noise: Noise | None = None) -> tuple[Tensor, Tensor]:
        cost = self.exponent / 2 * self.variance.double().log().sum()
        return self.encode(x), -cost.to(x).expand(len(x))

    def blend(self, a: Tensor, b: Tensor, weight: float) -> Tensor:
        return torch.lerp(a, b, weight)

    def reach(self, hole: Tensor) -> Tensor:
        return self.orthogonal.reach(hole)

    @property
    def cell(self) -> int:
        return self.orthogonal.cell

    def moved(self, z: Tensor, pixels: int) -> Tensor:
        """The latent of the picture `pixels` further left, its mean aside: a multiple of the cell, by which components
        of a group change places, so that sizes stay theirs."""
        return self.orthogonal.moved(z, pixels)

    @property
    def factors(self) -> tuple[int, ...]:  # type: ignore[override]
        return self.orthogonal.factors

    def magnify(self, small: Tensor) -> Known:
        """An orthonormal Haar average over f × f pixels is f times their mean: the enlarged picture has those of the
        wanted one, and no details."""
        factor = self.data.height // small.shape[-2]
        if factor not in self.factors or tuple(small.shape[1:]) != self.smaller(factor):
            return super().magnify(small)
        enlarged = small.repeat_interleave(factor, -2).repeat_interleave(factor, -1)
        return self.encode(enlarged), self.orthogonal.averages(factor).expand(len(small), *self.space.shape)

    @torch.no_grad()
    def prepare(self, batches: Batches) -> None:
        """Three passes: the map, where it is fitted; the mean; the variances."""
        some = lambda: _some(batches, ENOUGH)
        self.orthogonal.fit(some)
        mean = _average(batch["image"] for batch in some())
        if self.orthogonal.local:
            mean = mean.mean((-2, -1), keepdim=True).expand(self.data.shape)
        self.mean.copy_(mean)
        centre = self.mean.double()
        square = _average(self.orthogonal.turn(batch["image"].double() - centre).square() for batch in some())
        self.variance.copy_(self.orthogonal.pooled(square) + FLOOR)


def _average(parts: Iterable[Tensor]) -> Tensor:
    """The mean over all rows of all parts, float64."""
    sums = [(part.double().sum(0), len(part)) for part in parts]
    return torch.stack([total for total, _ in sums]).sum(0) / sum(count for _, count in sums)


def _some(batches: Batches, most: int) -> Iterable[Batch]:
    seen = 0
    for batch in batches():
        yield batch
        seen += len(batch["image"])
        if seen >= most:
            return


class Through(Codec):
    """`then` after `first`: x → first → then. `first` may have to be learned; `then` is fitted on its latents once that
    is done. Raises Misfit when `then` does not take what `first` yields."""

    def __init__(self, first: Codec, then: Components):
        super().__init__()
        if first.space != then.data:
            raise Misfit(
                f"{type(first).__name__} yields {first.space}, but the basis behind it was built for {then.data}. "
                "Build the basis over the codec's space; it must be a Grid."
            )
        self.first, self.then = first, then
        self.data, self.space = first.data, then.space
        self.exact, self.learned, self.discrete = first.exact and then.exact, first.learned, first.discrete
        self.kind = first.kind

    @property
    def stage(self) -> Codec:
        return self.first.stage

    def encode(self, x: Tensor) -> Tensor:
        return self.then.encode(self.first.encode(x))

    def latent(self, x: Tensor, noise: Noise) -> Tensor:
        return self.then.latent(self.first.latent(x, noise), noise)

    def decode(self, z: Tensor) -> Tensor:
        return self.first.decode(self.then.decode(z))

    def lift(self, x: Tensor, noise: Noise | None = None) -> tuple[Tensor, Tensor]:
        inner, w = self.first.lift(x, noise)
        z, more = self.then.lift(inner, noise)
        return z, w + more

    def blend(self, a: Tensor, b: Tensor, weight: float) -> Tensor:
        return self.then.encode(self.first.blend(self.then.decode(a), self.then.decode(b), weight))

    def reach(self, hole: Tensor) -> Tensor:
        touched = self.first.reach(hole).any(1, keepdim=True)
        return self.then.reach(touched)

    @property
    def cell(self) -> int:
        return self.first.cell * self.then.cell

    def loss(self, batch: Batch, player: int = 0, noise: Noise | None = None, progress: float = 1.0) -> Terms:
        return self.first.loss(batch, player, noise, progress)

    @torch.no_grad()
    def adapt(self, batches: Batches) -> None:
        self.first.adapt(batches)
        self.then.prepare(lambda: ({"image": self.first.encode(batch["image"])} for batch in batches()))


def space_of(codec: Codec) -> Grid:
    """The codec's space, which a basis can turn; Misfit otherwise."""
    space: Space = codec.space
    if not isinstance(space, Grid):
        raise Misfit(f"A basis turns pictures or grids of latents, and {type(codec).__name__} yields {space}.")
    return space
