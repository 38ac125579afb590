"""The parts of Glow: invertible maps x ↔ y of pictures whose log |det ∂y/∂x| costs no more than the map.

    squeeze     (B, C, H, W) ↔ (B, 4C, H/2, W/2)     each 2 × 2 pixels become channels        0
    mixing      y = W (x + b) e^{3l}                 actnorm, then W across channels          H W (Σ 3l + log |det W|)
    coupling    y₁ = x₁, y₂ = g(x₂; p), p = net(y₁)  g one of the table below, elementwise    Σ log |g′|

    g           numbers in p        g(z)                                         log |g′|
    affine      shift t, raw r      (z + t) s,  s = m + (1 − m) sigmoid(r + 2)   log s
    additive    shift t             z + t                                        0
    spline      3 K − 1             rational-quadratic on [−B, B] (spline.py)    its log slope
    gaussian    mean μ, raw r       (z − μ) e^{−l},  l = Λ tanh(r / Λ)           −l

The last makes noise of a Gaussian z: with it a split is a coupling like any other, and a learned prior its network.
p = 0 is the start: z, but for affine's s = 0.88. Bounds keep what is far from the data finite on the way back:
m = 10⁻³, and |l| ≤ Λ = 4. (With Λ = log 10³ a young flow of digits drew a quarter of its pictures out of range.)
p interleaves: the numbers of one channel of z are neighbours.

W is P L U with a fixed permutation P, unit lower L and U = triu(·, 1) + diag(± e^{log s}), all in one matrix whose
diagonal holds log s; or a plain matrix; or, for comparison, a fixed permutation. It starts as a random rotation.

Sources: Kingma & Dhariwal 2018, arXiv:1807.03039 and its code (actnorm's factor 3, sigmoid(r + 2), the edge channel);
Dinh et al. 2017, arXiv:1605.08803 (affine, squeeze); Dinh et al. 2015, arXiv:1410.8516 (additive); arXiv:1906.04032.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sfumato.core.condition import Condition
from sfumato.core.errors import Misfit
from sfumato.core.tensors import per_image, wide
from sfumato.nn.parts import spline
from sfumato.nn.parts.doors import check_doors

Mixer = Literal["lu", "plain", "shuffle", "reverse"]
Coupling = Literal["affine", "additive", "spline"]

FACTOR = 3.0  # the learned log-scales are stored as a third: they learn three times as fast (official code)
LEAST = 1e-3  # of affine's scale; also of a deviation that actnorm divides by at its start
MOST = 4.0  # Λ
BINS, BOUND = 8, 4.0  # the state is near N(0, 1) after actnorm: ±4 holds all but 6 in 10⁵


def squeeze(x: Tensor) -> Tensor:
    return F.pixel_unshuffle(x, 2)


def unsqueeze(y: Tensor) -> Tensor:
    return F.pixel_shuffle(y, 2)


# ---- what a coupling does to the half that it moves ----


class Map(NamedTuple):
    """forward (z, p) → (y, Σ log |g′| of each image); inverse (y, p) → z. p has `numbers` channels for one of z."""

    numbers: int
    forward: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
    inverse: Callable[[Tensor, Tensor], Tensor]


def _pair(z: Tensor, p: Tensor) -> tuple[Tensor, Tensor]:
    """The two numbers of each entry, in the state's precision."""
    first, second = p.to(z.dtype).contiguous().unflatten(1, (z.shape[1], 2)).unbind(2)
    return first, second


def _scale(raw: Tensor) -> Tensor:
    return LEAST + (1 - LEAST) * torch.sigmoid(raw + 2)


def _affine(z: Tensor, p: Tensor) -> tuple[Tensor, Tensor]:
    shift, raw = _pair(z, p)
    scale = _scale(raw)
    return (z + shift) * scale, per_image(scale.log())


def _affine_back(y: Tensor, p: Tensor) -> Tensor:
    shift, raw = _pair(y, p)
    return y / _scale(raw) - shift


def _additive(z: Tensor, p: Tensor) -> tuple[Tensor, Tensor]:
    return z + p.to(z.dtype), z.new_zeros(len(z))


def _gaussian(z: Tensor, p: Tensor) -> tuple[Tensor, Tensor]:
    mean, raw = _pair(z, p)
    log_std = MOST * torch.tanh(raw / MOST)
    return (z - mean) * torch.exp(-log_std), -per_image(log_std)


def _gaussian_back(y: Tensor, p: Tensor) -> Tensor:
    mean, raw = _pair(y, p)
    return mean + torch.exp(MOST * torch.tanh(raw / MOST)) * y


def _knots(z: Tensor, p: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return spline.shape(p.to(z.dtype).unflatten(1, (z.shape[1], -1)).movedim(2, 0).contiguous(), BOUND)


def _spline(z: Tensor, p: Tensor) -> tuple[Tensor, Tensor]:
    y, log_slope = spline.forward(z, *_knots(z, p))
    return y, per_image(log_slope)


GAUSSIAN = Map(2, _gaussian, _gaussian_back)
COUPLINGS: dict[Coupling, Map] = {
    "affine": Map(2, _affine, _affine_back),
    "additive": Map(1, _additive, lambda y, p: y - p.to(y.dtype)),
    "spline": Map(3 * BINS - 1, _spline, lambda y, p: spline.inverse(y, *_knots(y, p))),
}


# ---- per channel, and across channels ----


class ActNorm(nn.Module):
    """y = (x + b) e^{3l}, whose arithmetic is done by the linear map beside it. `fit` sets b and l so that the channels
    of a batch have mean 0 and deviation 1."""

    def __init__(self, channels: int):
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(channels))
        self.log_scale = nn.Parameter(torch.zeros(channels))

    @torch.no_grad()
    def fit(self, x: Tensor) -> None:
        """A channel that hardly varies is only centred and scaled by 1 / LEAST: one batch says little of it."""
        std, mean = torch.std_mean(wide(x), (0, 2, 3), correction=0)
        self.bias.copy_(-mean)
        self.log_scale.copy_(-std.clamp(min=LEAST).log() / FACTOR)

    def scale(self) -> Tensor:
        return torch.exp(FACTOR * self.log_scale)


class Mixing(nn.Module):
    """y = W (x + b) e^{3l} at every pixel, as one matrix; forward gives (y, log |det| of any one picture)."""

    order: Tensor
    sign: Tensor

    def __init__(self, channels: int, kind: Mixer = "lu"):
        super().__init__()
        if kind not in get_args(Mixer):
            raise Misfit(f"Channels are mixed by one of {', '.join(get_args(Mixer))}, not {kind!r}.")
        self.kind: Mixer = kind
        self.norm = ActNorm(channels)
        if kind in ("shuffle", "reverse"):
            order = torch.randperm(channels) if kind == "shuffle" else torch.arange(channels).flip(0)
            self.register_buffer("order", order)
            return
        rotation = torch.linalg.qr(torch.randn(channels, channels))[0]
        if kind == "plain":
            self.weight = nn.Parameter(rotation)
            return
        permutation, lower, upper = torch.linalg.lu(rotation)
        s = upper.diagonal()
        self.factors = nn.Parameter(lower.tril(-1) + upper.triu(1) + s.abs().log().diag())
        self.register_buffer("sign", s.sign())
        self.register_buffer("order", permutation.argmax(1))  # row i of W is row order[i] of L U

    def fit(self, x: Tensor) -> None:
        self.norm.fit(x)

    def matrix(self, dtype: torch.dtype) -> Tensor:
        """W."""
        if self.kind == "plain":
            return self.weight.to(dtype)
        one = torch.eye(len(self.order), dtype=dtype, device=self.order.device)
        if self.kind != "lu":
            return one[self.order]
        factors = self.factors.to(dtype)
        upper = factors.triu(1) + (self.sign.to(dtype) * factors.diagonal().exp()).diag()
        return ((factors.tril(-1) + one) @ upper)[self.order]

    def log_det(self) -> Tensor:
        """log |det W|."""
        if self.kind == "lu":
            return self.factors.diagonal().sum()
        if self.kind == "plain":
            return torch.linalg.slogdet(wide(self.weight)).logabsdet
        return self.norm.bias.new_zeros(())

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        with _all_bits(x):
            weight = self.matrix(x.dtype) * self.norm.scale().to(x.dtype)
            bias = weight @ self.norm.bias.to(x.dtype)
            log_det = (self.log_det() + FACTOR * self.norm.log_scale.sum()) * x[0, 0].numel()
            return _per_pixel(x, weight, bias), log_det.to(x.dtype)

    def inverse(self, y: Tensor) -> Tensor:
        with _all_bits(y):
            weight = torch.linalg.inv(wide(self.matrix(y.dtype) * self.norm.scale().to(y.dtype))).to(y.dtype)
            return _per_pixel(y, weight, -self.norm.bias.to(y.dtype))


def _all_bits(x: Tensor) -> torch.autocast:
    """Out of autocast: 8 bits of mantissa do not invert. (It knows no meta device, where nothing is computed.)"""
    return torch.autocast("cpu" if x.is_meta else x.device.type, enabled=False)


def _per_pixel(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """W x + b across the channels. Faster than a 1 × 1 convolution at the few channels that a state has."""
    b, c, h, w = x.shape
    return torch.baddbmm(bias[:, None].expand(b, c, 1), weight.expand(b, c, c), x.flatten(2)).view(b, c, h, w)


# ---- the networks ----


def frame(x: Tensor) -> Tensor:
    """(1, 1, H + 2, W + 2): 1 on the border around x, 0 within."""
    return F.pad(x.new_zeros(1, 1, *x.shape[2:]), (1, 1, 1, 1), value=1.0)


class NormConv(nn.Module):
    """A convolution, then actnorm, as one convolution of the scaled kernel. A 3 × 3 kernel has one input channel more,
    the frame, which tells it where the picture ends. Weights start as N(0, 0.05²) (official code)."""

    def __init__(self, channels: int, out_channels: int, kernel: int):
        super().__init__()
        self.framed = kernel > 1
        self.weight = nn.Parameter(0.05 * torch.randn(out_channels, channels + self.framed, kernel, kernel))
        self.norm = ActNorm(out_channels)

    @torch.no_grad()
    def fit(self, x: Tensor) -> None:
        self.norm.fit(F.conv2d(self._framed(x), self.weight))

    def forward(self, x: Tensor) -> Tensor:
        scale = self.norm.scale()
        return F.conv2d(self._framed(x), self.weight * scale[:, None, None, None], self.norm.bias * scale)

    def _framed(self, x: Tensor) -> Tensor:
        if not self.framed:
            return x
        border = F.pad(frame(x), (0, 0, 0, 0, x.shape[1], 0))  # 0 in the channels of x
        return (F.pad(x, (1, 1, 1, 1, 0, 1)) + border).contiguous(memory_format=torch.channels_last)


class ZeroConv(nn.Module):
    """(3 × 3 convolution + b) e^{3l}, all zero at the start. Its input is wide, so it is not copied beside the frame:
    the frame, the same for all pictures, has a kernel of its own, applied once."""

    def __init__(self, channels: int, out_channels: int):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(out_channels, channels, 3, 3))
        self.edge = nn.Parameter(torch.zeros(out_channels, 9))
        self.bias = nn.Parameter(torch.zeros(out_channels))
        self.log_scale = nn.Parameter(torch.zeros(out_channels))

    def forward(self, x: Tensor) -> Tensor:
        told = (self.edge @ F.unfold(frame(x), 3)[0]).unflatten(1, x.shape[2:])
        scale = torch.exp(FACTOR * self.log_scale)[:, None, None]
        return (F.conv2d(x, self.weight, self.bias, padding=1) + told) * scale


class CouplingNet(nn.Module):
    """z₁ (B, C, H, W), condition → p (B, out, H, W): 3 × 3, 1 × 1, zero 3 × 3, with ReLU between.

    condition.vector moves the first layer's features by a linear map that is zero at the start."""

    def __init__(self, channels: int, out: int, width: int, vector: int | None = None):
        super().__init__()
        self.vector_width = vector
        self.enter = NormConv(channels, width, 3)
        self.told = None if vector is None else _zero_linear(vector, width)
        self.middle = NormConv(width, width, 1)
        self.exit = ZeroConv(width, out)

    def forward(self, z: Tensor, condition: Condition) -> Tensor:
        check_doors("coupling network", condition, vector=self.vector_width)
        h = self.enter(z.to(self.exit.bias.dtype))  # channels last from here on: the fastest on CPUs too
        if self.told is not None:
            h = h.add_(self.told(condition.vector)[:, :, None, None])
        return self.exit(F.relu(self.middle(F.relu(h, inplace=True)), inplace=True))


class SplitNet(nn.Module):
    """What the kept half tells of the half that is split off: p (B, out, H, W), by a zero convolution."""

    def __init__(self, channels: int, out: int, vector: int | None = None):
        super().__init__()
        self.vector_width = vector
        self.exit = ZeroConv(channels, out)
        self.told = None if vector is None else _zero_linear(vector, out)

    def forward(self, z: Tensor, condition: Condition) -> Tensor:
        check_doors("split network", condition, vector=self.vector_width)
        p = self.exit(z.to(self.exit.bias.dtype))
        return p if self.told is None else p + self.told(condition.vector)[:, :, None, None]


class TopNet(nn.Module):
    """p of what is left at the top, z (B, C, H, W) → (B, out, H, W): a number per place, and one per channel that is
    linear in condition.vector (the official code's learned top and ycond). Of z only the batch and sides count."""

    def __init__(self, out: int, layout: tuple[int, int], vector: int | None = None):
        super().__init__()
        self.vector_width = vector
        self.place = nn.Parameter(torch.zeros(out, *layout))
        self.told = None if vector is None else _zero_linear(vector, out)

    def forward(self, z: Tensor, condition: Condition) -> Tensor:
        check_doors("top network", condition, vector=self.vector_width)
        p = self.place.repeat(len(z), 1, 1, 1)
        return p if self.told is None else p + self.told(condition.vector)[:, :, None, None]


def _zero_linear(width: int, out: int) -> nn.Linear:
    linear = nn.Linear(width, out)
    nn.init.zeros_(linear.weight)
    nn.init.zeros_(linear.bias)
    return linear
