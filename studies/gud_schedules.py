"""The family of schedules, drawn: docs/pictures/one-diffusion-schedules.png. Nothing is trained.

python studies/gud_schedules.py
"""

from __future__ import annotations

import torch
from common import ROOT, canvas

from sfumato.codecs.orthogonal import Wavelet
from sfumato.core.space import Grid
from sfumato.priors.diffusion import Staggered


def curves(axis, path: Staggered, colour: torch.Tensor, title: str, most: int = 24) -> None:
    """log SNR of up to `most` components over t."""
    from matplotlib import colormaps

    u = torch.linspace(0, 1, 200)
    gamma, _ = path.rate(u.reshape(-1, *[1] * path.variance.ndim))
    snr = (path.variance.log() - gamma).flatten(1)
    for i in torch.linspace(0, snr.shape[1] - 1, min(most, snr.shape[1])).long().tolist():
        axis.plot(u, snr[:, i], color=colormaps["viridis"](float(colour.flatten()[i])), linewidth=1.2)
    axis.set(title=title, xlabel="t", ylabel="log SNR", ylim=(-25, 25))
    axis.axhline(0, color="0.6", linewidth=0.6)


def row(variance: torch.Tensor, place: torch.Tensor | None = None, **options) -> Staggered:
    path = Staggered(torch.arange(len(variance))[:, None], None if place is None else place[:, None], **options)
    path.variance.copy_(variance[:, None])
    return path


def main() -> None:
    figure, axes = canvas(3, 2, width=3.6, height=2.7)
    k = torch.arange(1, 65).float()
    sizes, rank = 40 / k.square(), (k - 1) / 63
    for axis, a in zip(axes[0], (0.0, 1.0, 3.0)):
        curves(axis, row(sizes, size=a, clip=False, floor=-40.0), rank, f"by size, a = {a:g}")
    columns = torch.linspace(0, 1, 6)
    for axis, s in zip(axes[1], (1.0, 0.3)):
        path = row(torch.full((6,), 0.25), columns, softness=s, sized=False, low=-11.0)
        curves(axis, path, columns, f"six columns, softness {s:g}")
    basis = Wavelet(Grid(1, 8, 8), 3)
    place = basis.centres()[1]
    place = (place - place.min()) / (place.max() - place.min())
    path = Staggered(basis.group, place, size=1.0, softness=0.5)
    path.variance.copy_(10.0 * 4.0 ** -((basis.group + 2) // 3).float())
    curves(axes[1, 2], path, ((basis.group + 2) // 3) / 3, "Haar levels, each from the left", 64)
    figure.savefig(ROOT / "docs" / "pictures" / "one-diffusion-schedules.png", dpi=110, bbox_inches="tight")


if __name__ == "__main__":
    main()
