"""Unified diffusion: a basis, an order in which its components are drawn, a softness of that order (arXiv:2410.02667).

recipe                 basis                           drawn first               softness means
gud-pixel              pixels                          all at once               –
gud-pca                eigenvectors of the data        large variance            1 / a
gud-fourier            real Fourier                    large variance            1 / a
gud-wavelet            Haar, three levels              large variance: coarse    1 / a
gud-columns            pixels                          the left                  the share of time a place is active
gud-wavelet-columns    Haar, three levels              coarse, and the left      the share of time a place is active
gud-latent             eigenvectors over a codec       large variance            1 / a
vdm                    pixels, and γ(t) is learned     all at once               –

Softness 1 is plain diffusion where the order is by size. A range, "0.5-2", trains one network on all softnesses in it.
`exponent` r whitens: the noise has the covariance of the data to the power r. Orders by place go by columns, or by rows
or blocks.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from torch import Tensor

from sfumato.codecs.bases import Components, Through, space_of
from sfumato.codecs.orthogonal import Fourier, Identity, Orthogonal, Principal, Wavelet
from sfumato.codecs.pixels import Pixels
from sfumato.core.errors import UsageError
from sfumato.core.space import Grid
from sfumato.core.space import size as entries
from sfumato.nn.parts.stated import Fine, Stated
from sfumato.priors.diffusion import Diffusion, Learned, Staggered
from sfumato.recipes.frame import Frame
from sfumato.recipes.given import given
from sfumato.recipes.latents import codec_of
from sfumato.recipes.networks import unet
from sfumato.recipes.sizes import LATENT_UNET, PIXEL_UNET, READER, Size, Unet, planner
from sfumato.recipes.table import add, shown
from sfumato.systems import System

Order = Literal["columns", "rows", "blocks"]
LEVELS = 3  # of the wavelet
BEGUN = 0.25  # of what an order by place trains on has a finished part already, for `extend` and `edit`
BLOCKS = 4  # a side


def _range(softness: str) -> tuple[float, tuple[float, float] | None]:
    """ "0.5" → (0.5, None); "0.5-2" → the geometric middle and the range."""
    try:
        low, *high = (float(part) for part in str(softness).split("-"))
    except ValueError:
        low, high = 0.0, []
    if not 1e-3 <= low <= 1e3 or len(high) > 1 or (high and not low < high[0] <= 1e3):
        raise UsageError(
            f"--softness takes a number from 0.001 to 1000, or a range such as 0.5-2, not {shown(softness)}."
        )
    return ((low * high[0]) ** 0.5, (low, high[0])) if high else (low, None)


def _by_size(basis: Orthogonal, softness: str) -> Staggered:
    middle, between = _range(softness)
    return Staggered(basis.group, size=1 / middle, between=between, clip=False)


def place_of(basis: Orthogonal, order: Order) -> Tensor:
    """When each component is drawn, 0 first and 1 last: from left to right, from above, or block by block in reading
    order."""
    row, column = basis.centres()
    side = min(basis.data.height, basis.data.width)
    count = max(2, min(BLOCKS, side // 2))
    found = {
        "columns": column,
        "rows": row,
        "blocks": (row * count).floor() * count + (column * count).floor(),
    }[order]
    return (found - found.min()) / (found.max() - found.min())


def _by_place(basis: Orthogonal, order: Order, softness: str, size: float = 0.0) -> Staggered:
    """What is drawn later is noised earlier."""
    middle, between = _range(softness)
    if (between[1] if between else middle) > 1:
        raise UsageError(f"A place is active for at most all of the time: --softness is at most 1, not {softness!r}.")
    place = place_of(basis, order)
    shape = {"size": size, "softness": middle, "between": between}
    return Staggered(basis.group, place, **shape, begun=BEGUN, low=-11.0, sized=size > 0)  # type: ignore[arg-type]


def _denoiser(frame: Frame, basis: Orthogonal, dims: Unet) -> tuple[Stated, Any]:
    """A U-Net of pictures that is told the noise of components, and the conditioner."""
    conditioner, doors = given(frame)
    if not basis.local and doors.context is None:
        doors = type(doors)(doors.vector, READER[frame.size].width)
    net = unet(dims, basis.data.channels, basis.data.channels, doors, grid=basis.layers or None)
    return Stated(net, basis, context=doors.context), conditioner


def _gud(
    frame: Frame,
    codec: Components | Through,
    basis: Orthogonal,
    path: Staggered,
    dims: Mapping[Size, Unet] = PIXEL_UNET,
) -> System:
    net, conditioner = _denoiser(frame, basis, dims[frame.size])
    prior = Diffusion(codec.space, net, path, "edm", "vlb", steps=25)  # type: ignore[arg-type]
    return System(codec, prior, conditioner)


def _principal(data: Grid) -> Orthogonal:
    """Over all channels at once, or over each by itself where the matrix would not fit."""
    return Principal(data, joint=entries(data) <= 4096)


@add("gud-pixel", planner("diffusion"))
def gud_pixel(frame: Frame) -> System:
    """Unified diffusion over pixels, all drawn at once: plain diffusion, trained by its bound (arXiv:2410.02667)."""
    basis = Identity(frame.grid(paper=32))
    path = Staggered(basis.group, low=-11.0)
    return _gud(frame, Components(basis), basis, path)


@add("gud-pca", planner("diffusion"))
def gud_pca(frame: Frame, softness: str = "1", exponent: float = 0.0) -> System:
    """Unified diffusion over principal components, large ones first as the softness falls (arXiv:2410.02667)."""
    basis = _principal(frame.grid(paper=32))
    codec = Components(basis, exponent)
    return _gud(frame, codec, basis, _by_size(basis, softness))


@add("gud-fourier", planner("diffusion"))
def gud_fourier(frame: Frame, softness: str = "1", exponent: float = 0.0) -> System:
    """Unified diffusion over frequencies, low ones first as the softness falls (arXiv:2410.02667)."""
    basis = Fourier(frame.grid(paper=32))
    codec = Components(basis, exponent)
    return _gud(frame, codec, basis, _by_size(basis, softness))


@add("gud-wavelet", planner("diffusion"))
def gud_wavelet(frame: Frame, softness: str = "1", exponent: float = 0.0) -> System:
    """Unified diffusion over Haar wavelets, coarse ones first as the softness falls (arXiv:2410.02667)."""
    basis = Wavelet(frame.grid(2**LEVELS, paper=32), LEVELS)
    codec = Components(basis, exponent)
    return _gud(frame, codec, basis, _by_size(basis, softness))


@add("gud-columns", planner("diffusion"))
def gud_columns(frame: Frame, softness: str = "0.3", order: Order = "columns") -> System:
    """Unified diffusion that draws columns from left to right, so that pictures grow at will (arXiv:2410.02667)."""
    basis = Identity(frame.grid(paper=32))
    path = _by_place(basis, order, softness)
    return _gud(frame, Components(basis), basis, path)


@add("gud-wavelet-columns", planner("diffusion"))
def gud_wavelet_columns(frame: Frame, softness: str = "0.5", order: Order = "columns") -> System:
    """Unified diffusion over Haar wavelets, coarse before fine and left before right (arXiv:2410.02667)."""
    basis = Wavelet(frame.grid(2**LEVELS, paper=32), LEVELS)
    path = _by_place(basis, order, softness, size=1.0)
    return _gud(frame, Components(basis), basis, path)


@add("gud-latent", planner("diffusion"))
def gud_latent(
    frame: Frame,
    softness: str = "1",
    basis: Literal["pca", "wavelet", "fourier"] = "pca",
    codec: str = "dae",
) -> System:
    """Unified diffusion over the latents of an autoencoder, in a basis of their own (arXiv:2410.02667)."""
    first = codec_of(codec, frame)
    space = space_of(first)
    turned = {"pca": _principal, "fourier": Fourier, "wavelet": lambda data: Wavelet(data, 1)}[basis](space)
    through = Through(first, Components(turned, eight_bit=False))
    return _gud(frame, through, turned, _by_size(turned, softness), LATENT_UNET)


@add("vdm", planner("diffusion"))
def vdm(frame: Frame) -> System:
    """Variational diffusion: the schedule is learned so that the bound varies least (arXiv:2107.00630)."""
    space = frame.grid(paper=32)
    conditioner, doors = given(frame)
    waves = (6, 7)
    net = Fine(unet(PIXEL_UNET[frame.size], frame.channels * (1 + 2 * len(waves)), frame.channels, doors), waves)
    prior = Diffusion(space, net, Learned(spread=0.5), "edm", "vlb", steps=25, eight_bit=True)
    return System(Pixels(space, "values"), prior, conditioner)
