"""Terms that two players exchange, and a distance between pictures that eyes would agree with.

hinge            critic ½ E[(1 − D(x))₊ + (1 + D(x̂))₊]          generator −E D(x̂)              arXiv:1705.02894
non-saturating   critic E[log(1 + e^−D(x)) + log(1 + e^D(x̂))]   generator E log(1 + e^−D(x̂))   arXiv:1406.2661
saturating       critic the same                                generator −E log(1 + e^D(x̂))   the minimax game, ibid.
relativistic     critic E log(1 + e^−(D(x) − D(x̂)))             generator E log(1 + e^(D(x) − D(x̂)))  arXiv:1807.00734
wasserstein      critic E D(x̂) − E D(x)                         generator −E D(x̂)              arXiv:1701.07875

D(x) are logits. The best non-saturating critic is D* = log p_data − log p_G; its loss is log 4 − 2 JS(p_data, p_G),
log 4 where the two are equal. The relativistic critic is paired: it compares each real picture with a made one, and
so does its generator. The hinge has the ½ of taming-transformers, not BigGAN's sum.

adaptive weight  λ = clamp(‖∂ L_rec / ∂ω‖ / (‖∂ L_adv / ∂ω‖ + 10⁻⁴), 0, ceiling), a number, ω the last layer
                 so that neither term outshouts the other where they meet; Esser et al. 2021, arXiv:2012.09841
r1               ½ E‖∂D(x)/∂x‖²; Mescheder et al. 2018, arXiv:1801.04406; at made pictures it is called R2
one-centred      E(‖∂D(x)/∂x‖ − 1)², at points between real and made ones; WGAN-GP, arXiv:1704.00028

perceptual       d(x, y) = Σ_l mean over positions of Σ_c w_lc (f̂_lc(x) − f̂_lc(y))², f̂ a layer's features, each
                 position's vector of unit length; LPIPS, arXiv:1801.03924. The weights are the shift-tolerant ones,
                 arXiv:2207.13686: trunks that blur before they subsample, so that a shift by a pixel costs little
"""

from __future__ import annotations

import importlib.metadata
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sfumato.core.errors import WeightsError
from sfumato.core.published import PUBLISHED, read_published_pth
from sfumato.core.registry import Registry
from sfumato.core.tensors import per_image

# ── two players ──────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Adversarial:
    """What each player minimises; arguments are the critic's logits of any shape, results are scalars."""

    critic: Callable[[Tensor, Tensor], Tensor]  # (of real pictures, of made ones)
    generator: Callable[..., Tensor]  # (of made pictures), and of real ones after them where `paired`
    paired: bool = False


ADVERSARIAL: Registry[Adversarial] = Registry("adversarial loss")

ADVERSARIAL.add("hinge")(
    Adversarial(
        critic=lambda real, fake: (F.relu(1 - real).mean() + F.relu(1 + fake).mean()) / 2,
        generator=lambda fake: -fake.mean(),
    )
)
ADVERSARIAL.add("non-saturating")(
    Adversarial(
        critic=lambda real, fake: F.softplus(-real).mean() + F.softplus(fake).mean(),
        generator=lambda fake: F.softplus(-fake).mean(),
    )
)
ADVERSARIAL.add("saturating")(
    Adversarial(
        critic=lambda real, fake: F.softplus(-real).mean() + F.softplus(fake).mean(),
        generator=lambda fake: -F.softplus(fake).mean(),
    )
)
ADVERSARIAL.add("relativistic")(
    Adversarial(
        critic=lambda real, fake: F.softplus(fake - real).mean(),
        generator=lambda fake, real: F.softplus(real - fake).mean(),
        paired=True,
    )
)
ADVERSARIAL.add("wasserstein")(
    Adversarial(critic=lambda real, fake: fake.mean() - real.mean(), generator=lambda fake: -fake.mean())
)


def adaptive_weight(rec: Tensor, adv: Tensor, last: Tensor, ceiling: float = 1e4) -> Tensor:
    """λ for λ · adv beside rec: a scalar without gradient. `last` is a weight that both scalars depend on."""
    (of_rec,) = torch.autograd.grad(rec, last, retain_graph=True)
    (of_adv,) = torch.autograd.grad(adv, last, retain_graph=True)
    return (of_rec.norm() / (of_adv.norm() + 1e-4)).clamp(0, ceiling).detach()


def _slope(logits: Tensor, x: Tensor) -> Tensor:
    """‖∂D(x)/∂x‖² (B,), differentiable; x must require a gradient and logits (B, …) come from it row by row."""
    (slope,) = torch.autograd.grad(logits.sum(), x, create_graph=True)
    return per_image(slope.square())


def r1(logits: Tensor, x: Tensor) -> Tensor:
    """½ E‖∂D(x)/∂x‖² over the rows of x (B, …), which must require a gradient."""
    return _slope(logits, x).mean() / 2


def one_centred(logits: Tensor, x: Tensor) -> Tensor:
    """E(‖∂D(x)/∂x‖ − 1)² over the rows of x (B, …), which must require a gradient."""
    # the root's own slope is infinite at 0, where a new critic's may be
    return ((_slope(logits, x) + 1e-12).sqrt() - 1).square().mean()


# ── perceptual distance ──────────────────────────────────────────────────────────────────────────────────────────────

# Each trunk is five slices; after each one the features are compared. A layer is
#   ("conv", key, stride, padding) | ("blur", key) | ("relu",) | ("max", window)
# Keys name the tensors of the published files; "blur" pads two pixels by reflection and halves the resolution.
Layer = tuple
ALEX: tuple[tuple[Layer, ...], ...] = (
    (("conv", "slice1.0", 2), ("blur", "slice1.1"), ("relu",)),
    (("max", 3), ("blur", "slice2.4"), ("conv", "slice2.5", 2), ("relu",)),
    (("max", 3), ("blur", "slice3.8"), ("conv", "slice3.9", 1), ("relu",)),
    (("conv", "slice4.11", 1), ("relu",)),
    (("conv", "slice5.13", 1), ("relu",)),
)


def _block(slice_: int, *places: int) -> tuple[Layer, ...]:
    """3×3 convolutions, each followed by a ReLU."""
    return tuple(layer for n in places for layer in (("conv", f"slice{slice_}.{n}", 1), ("relu",)))


VGG: tuple[tuple[Layer, ...], ...] = (
    _block(1, 0, 2),
    (("max", 2), ("blur", "slice2.5"), *_block(2, 6, 8)),
    (("max", 2), ("blur", "slice3.11"), *_block(3, 12, 14, 16)),
    (("max", 2), ("blur", "slice4.19"), *_block(4, 20, 22, 24)),
    (("max", 2), ("blur", "slice5.27"), *_block(5, 28, 30, 32)),
)
TRUNKS = {"alex": ALEX, "vgg": VGG}
SMALLEST = 32  # pixels a side; what is smaller is enlarged, since the last slices would have nothing to look at


class Perceptual(nn.Module):
    """d(x, y) (B,) of images (B, 1 or 3, H, W) in [−1, 1]; differentiable in both.

    It has no parameters and no state: the file is read at the first call and never saved with a model, so that a
    trained codec loads on a machine without it. `path` is the published file.
    """

    def __init__(self, trunk: str, path: str | Path):
        super().__init__()
        if trunk not in TRUNKS:
            raise ValueError(f"The trunk is one of {', '.join(TRUNKS)}, not {trunk!r}.")
        self.trunk, self.path = trunk, Path(path)
        self._tensors: dict[str, Tensor] = {}

    def _weights(self, like: Tensor) -> dict[str, Tensor]:
        if not self._tensors:
            self._tensors = read_published_pth(self.path, PUBLISHED[f"{self.trunk}_shift_tolerant.pth"])
        first = next(iter(self._tensors.values()))
        if first.device != like.device or first.dtype != like.dtype:
            self._tensors = {name: tensor.to(like) for name, tensor in self._tensors.items()}
        return self._tensors

    def _layer(self, h: Tensor, layer: Layer, weights: dict[str, Tensor]) -> Tensor:
        if layer[0] == "conv":
            return F.conv2d(h, weights[f"net.{layer[1]}.weight"], weights[f"net.{layer[1]}.bias"], padding=layer[2])
        if layer[0] == "blur":
            kernel = weights[f"net.{layer[1]}.filt"]
            return F.conv2d(F.pad(h, (2, 2, 2, 2), mode="reflect"), kernel, stride=2, groups=h.shape[1])
        return F.relu(h) if layer[0] == "relu" else F.max_pool2d(h, layer[1], stride=1)

    def features(self, x: Tensor) -> list[Tensor]:
        """After each of the five slices, every position's vector of unit length."""
        weights = self._weights(x)
        if x.shape[1] == 1:
            x = x.expand(-1, 3, -1, -1)
        if min(x.shape[2:]) < SMALLEST:
            scale = SMALLEST / min(x.shape[2:])
            side = [max(SMALLEST, round(n * scale)) for n in x.shape[2:]]
            x = F.interpolate(x, side, mode="bilinear", align_corners=False)
        h = (x - weights["scaling_layer.shift"]) / weights["scaling_layer.scale"]
        found = []
        for slice_ in TRUNKS[self.trunk]:
            for layer in slice_:
                h = self._layer(h, layer, weights)
            # the 1e-10 keeps the slope finite where a position's features are all zero
            found.append(h * (h.square().sum(1, keepdim=True) + 1e-10).rsqrt())
        return found

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        x, y = (image if image.dtype == torch.float64 else image.float() for image in (x, y))
        with torch.autocast(x.device.type, enabled=False):
            pairs = zip(self.features(x), self.features(y))
            heads = (self._tensors[f"lin{n}.model.1.weight"] for n in range(len(TRUNKS[self.trunk])))
            parts = [F.conv2d((a - b).square(), head).mean((1, 2, 3)) for (a, b), head in zip(pairs, heads)]
        return torch.stack(parts).sum(0)


def perceptual(trunk: str = "alex", path: str | Path | None = None) -> Perceptual | None:
    """The distance by the file at `path`, else by the installed package stlpips-pytorch (only its file is read, none of
    its code is run). Without either: None, and a warning that says what is missed."""
    if path is None:
        try:
            package = importlib.metadata.distribution("stlpips-pytorch")
        except importlib.metadata.PackageNotFoundError:
            warnings.warn(
                "No perceptual term: its weights are not installed, so reconstructions will be blurrier. "
                "`pip install --no-deps stlpips-pytorch==0.0.2` provides them.",
                stacklevel=2,
            )
            return None
        path = Path(str(package.locate_file(f"stlpips_pytorch/weights/vST0.0/{trunk}_shift_tolerant.pth")))
    if not Path(path).is_file():
        raise WeightsError(f"There are no weights of a perceptual distance at {path}.")
    return Perceptual(trunk, path)
