"""When each part of a picture is drawn: one figure for a diffusion whose schedules are not one given curve.

    log SNR_i(t) = log Σ_i − γ_i(t)          Σ_i the variance of component i over the data, γ = log σ²/α²
    t_i: log SNR_i(t_i) = 0                  noise and picture are equally strong there: the component appears

    left     log SNR over time, coloured by t_i; below, on the same axis, a real picture on its way to noise, a draw on
             its way from noise, and what the network expected of it at each time
    right    t_i of every component: in the latent's own plane, or against its rank where components have no place;
             for a learned schedule, how much time passes at each level of noise

Time runs from left (t = 1, noise) to right (t = 0, picture), as drawing does. In the strips a noisy latent is divided
by one number a time, so that it has the spread of the data: else most of it would be black and white.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import textwrap
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from sfumato.core.condition import Condition
from sfumato.core.errors import SfumatoError, UsageError
from sfumato.core.noise import Noise
from sfumato.core.space import Grid
from sfumato.priors.diffusion import Diffusion, Learned, Staggered
from sfumato.report.pictures import eight_bit

POINTS = 301  # of a curve; they are straight but for their corners
CURVES = 48  # drawn at most; of more, some that are evenly spaced in order
CELLS = 11  # pictures of a strip: t = 1, 0.9, … 0
STEPS = 20  # of the draw that is shown, a multiple of CELLS − 1; few, since a CPU may have to take them
PAPER, INK, SOFT, RULE = "#fdfcfa", "#23211e", "#6f6a62", "#e4dfd6"  # the page's own colours
EVEN = "#2f6f8f"  # of a curve that all share


@dataclass(frozen=True)
class Schedule:
    """times (POINTS,) from the first with noise to 1; log_snr (n, POINTS) of n components, in the order in which they
    appear; crossing and group in the latent's shape: t_i, and which components a picture cannot tell apart. `local`:
    whether the latent lies in the plane. `learned`: one schedule for all, by a Learned path."""

    times: Tensor
    log_snr: Tensor
    crossing: Tensor
    group: Tensor
    local: bool
    learned: bool

    @property
    def together(self) -> bool:
        """All components appear at one time, to a hundredth of it all."""
        return bool(self.crossing.max() - self.crossing.min() < 0.01)


@dataclass(frozen=True)
class Strips:
    """(CELLS, C, H, W) in [−1, 1] each, from t = 1 to t = 0; `forward` is None where there was no picture."""

    forward: Tensor | None
    states: Tensor
    guesses: Tensor


def path_of(system: Any) -> Staggered | Learned | None:
    """The path of a system whose schedule is worth a figure; None for all others."""
    prior = getattr(system, "prior", None)
    if isinstance(prior, Diffusion) and isinstance(prior.path, (Staggered, Learned)):
        return prior.path
    return None


@torch.no_grad()
def schedule_of(system: Any) -> Schedule | None:
    """What there is to see of the system's schedules; None where one given curve is all."""
    path = path_of(system)
    if path is None:
        return None
    learned = isinstance(path, Learned)
    if isinstance(path, Learned):
        group, variance = torch.zeros(1, dtype=torch.int64), torch.tensor([path.spread**2])
    else:
        group, variance = path.group.cpu(), path.variance.cpu()
    times = torch.linspace(path.ends[0], 1, POINTS)  # before lies data, without noise
    at = times.to(system.device).reshape(-1, *[1] * group.ndim)
    gamma = path(at).gamma.cpu().expand(-1, *group.shape)
    log_snr = (variance.log() - gamma).flatten(1).T
    crossing = crossings(times, log_snr)
    order = crossing.argsort(descending=True, stable=True)
    chosen = order[torch.linspace(0, len(order) - 1, min(CURVES, len(order))).round().long()]
    local = not learned and isinstance(system.codec.space, Grid)
    return Schedule(times, log_snr[chosen], crossing.reshape(group.shape), group, local, learned)


def crossings(times: Tensor, log_snr: Tensor) -> Tensor:
    """(n,) where each row, which falls, crosses 0, between two times by a straight line; 0 where it is below from the
    start, and 1 where it stays above."""
    last = (log_snr > 0).sum(1).clamp(min=1, max=len(times) - 1)
    before, after = (log_snr.gather(1, (last - k)[:, None])[:, 0] for k in (1, 0))
    share = (before / (before - after).clamp(min=1e-12)).clamp(0, 1)
    return torch.lerp(times[last - 1], times[last], share)


@torch.no_grad()
def strips(system: Any, image: Tensor | None, seed: int = 0) -> Strips:
    """`image` (C, H, W) is noised by one ε at all times; the draw of `seed` is unconditional, of STEPS even steps."""
    prior, device, times = system.prior, system.device, torch.linspace(1, 0, CELLS)
    start = Noise.each([seed], device).normal(*prior.space.shape)
    condition = Condition.none(1) if system.conditioner is None else system.conditioner.null(1)
    drawn = list(prior.trajectory(condition, Noise.each([seed], device), start=start, steps=STEPS, grid="uniform"))
    z = [torch.as_tensor(prior.path.terminal).to(start) * start, *(state.z for state in drawn)]
    x = [*(state.x for state in drawn), drawn[-1].z]
    every = STEPS // (CELLS - 1)
    states, guesses = torch.cat(z[::every]), torch.cat(x[::every])
    forward = None
    if image is not None:
        clean = system.codec.encode(image[None].to(device))
        at = prior.path(times.to(device).reshape(-1, *[1] * (clean.ndim - 1)))
        forward = _seen(system, at.alpha * clean + at.sigma * Noise.each([seed], device).normal(*prior.space.shape))
    return Strips(forward, _seen(system, states), system.codec.decode(guesses).clamp(-1, 1).cpu())


def _seen(system: Any, z: Tensor) -> Tensor:
    """Latents at the strip's times as pictures, each brought to the mean square of the last, which has no noise."""
    size = z.flatten(1).square().mean(1).sqrt().clamp(min=1e-6)
    z = z * (size[-1] / size).reshape(-1, *[1] * (z.ndim - 1))
    return system.codec.decode(z).clamp(-1, 1).cpu()


def summary(schedule: Schedule) -> str:
    """In a sentence, with its numbers."""
    n, when = schedule.crossing.numel(), schedule.crossing
    if schedule.learned:
        first, last = schedule.log_snr[0, [0, -1]].tolist()
        return f"Log SNR goes from {last:.1f} to {first:.1f} as a picture is drawn, on a curve that was learned."
    if schedule.together:
        return f"Its {n:,} components all appear at the same time, around t = {float(when.mean()):.2f}."
    return (
        f"Its {n:,} components appear one after another, from t = {float(when.max()):.2f} to {float(when.min()):.2f}."
    )


def explanation(schedule: Schedule) -> str:
    """How to read the figure, for whoever is new to it."""
    told = "Time runs from left to right, as drawing does. "
    if schedule.learned:
        told += "The schedule was learned so that the bound varies least: where it is flat, more of the time is spent. "
    else:
        told += "A component appears where its curve crosses zero: there it is as strong as the noise on it. "
    if schedule.local and schedule.group[0].unique().numel() > 1:
        told += "The plane has a wavelet's bands: averages upper left, the finest details lower right. "
    elif schedule.local and not schedule.together:
        told += "The plane is that of the picture. "
    return told + "On the left stand a picture of the set with its noise, a draw, and what the network expects of it."


def draw(system: Any, image: Tensor | None, seed: int = 0) -> tuple[Image.Image, str] | None:
    """(the figure, its summary); None for a system without schedules of its own. `image`: a real picture, if any.
    Needs the extra `plots`, and says so by a UsageError before anything is computed."""
    schedule = schedule_of(system)
    if schedule is None:
        return None
    refuse_without_matplotlib()
    return figure(schedule, strips(system, image, seed)), summary(schedule)


def refuse_without_matplotlib() -> None:
    if importlib.util.find_spec("matplotlib") is None:
        raise UsageError("The figure of when components appear is drawn by matplotlib: pip install 'sfumato[plots]'.")


def draw_run(opened: Any, seed: int = 0) -> tuple[Image.Image, str] | None:
    """The same of a run (report.run.Opened); without a real picture where the data are gone."""
    if path_of(opened.system) is None:
        return None
    image = None
    with contextlib.suppress(SfumatoError):
        image = opened.source.batch([0])["image"][0]
    return draw(opened.system, image, seed)


# ---- drawing ----


def figure(schedule: Schedule, shown: Strips) -> Image.Image:
    """About 2,000 pixels wide, on the page's paper."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    names = ("a real picture, with noise", "a draw", "what the network expects of it")
    strips_of = zip(names, (shown.forward, shown.states, shown.guesses))
    rows = [(name, pictures) for name, pictures in strips_of if pictures is not None]
    left, cell, top, curves, label, beside, side = 0.65, 0.57, 0.5, 2.6, 0.24, 1.05, 2.15  # inches
    wide, below = CELLS * cell, top + curves + 0.72
    whole, high = left + wide + beside + side + 0.2, below + len(rows) * (cell + label) + 0.05
    sheet = Figure(figsize=(whole, high), dpi=200, facecolor=PAPER)
    FigureCanvasAgg(sheet)
    place = lambda x, y, w, h: sheet.add_axes((x / whole, 1 - (y + h) / high, w / whole, h / high))
    colour = _colour(schedule)
    _curves(place(left, top, wide, curves), schedule, colour)
    right = place(left + wide + beside, top, side, side if schedule.local else curves)
    (_levels if schedule.learned else _plane if schedule.local else _ranks)(right, schedule, colour)
    for i, (name, pictures) in enumerate(rows):
        y = below + i * (cell + label)
        _strip(place(left, y, wide, cell), pictures)
        sheet.text((left + 0.02) / whole, 1 - (y - 0.05) / high, name, color=SOFT, fontsize=8)
    words = textwrap.fill(explanation(schedule), 38)
    sheet.text(
        (left + wide + beside) / whole, 1 - below / high, words, color=SOFT, fontsize=8, va="top", linespacing=1.5
    )
    file = io.BytesIO()
    sheet.savefig(file, format="png", facecolor=PAPER)
    return Image.open(file).convert("RGB")


def _colour(schedule: Schedule) -> Any:
    """A time of appearing → a colour: dark for what is drawn first, light for what is drawn last."""
    from matplotlib import colormaps
    from matplotlib.colors import ListedColormap, Normalize

    if schedule.learned or schedule.together:
        return lambda t: np.broadcast_to(_rgba(EVEN), (*np.shape(t), 4))
    low, high = float(schedule.crossing.min()), float(schedule.crossing.max())
    scale = ListedColormap(colormaps["viridis"](np.linspace(0.93, 0.05, 256)))  # early is late in t
    return lambda t: scale(Normalize(low, high)(np.asarray(t)))


def _rgba(colour: str) -> tuple[float, ...]:
    from matplotlib.colors import to_rgba

    return to_rgba(colour)


def _dress(axes: Any, title: str, x: str, y: str) -> None:
    axes.set_facecolor(PAPER)
    axes.set_title(title, loc="left", fontsize=10, color=INK, pad=7)
    axes.set_xlabel(x, fontsize=8, color=SOFT)
    axes.set_ylabel(y, fontsize=8, color=SOFT)
    axes.tick_params(colors=SOFT, labelsize=7.5, length=2.5)
    for name, spine in axes.spines.items():
        spine.set_visible(name in ("left", "bottom"))
        spine.set_color(RULE)


def _curves(axes: Any, schedule: Schedule, colour: Any) -> None:
    first = crossings(schedule.times, schedule.log_snr)
    thin = 1.0 if len(schedule.log_snr) > 16 else 1.4
    for curve, when in reversed(list(zip(schedule.log_snr, first))):
        axes.plot(schedule.times, curve, color=colour(float(when)), linewidth=thin, solid_capstyle="round")
    if schedule.learned:
        axes.plot([0, 1], schedule.log_snr[0, [0, -1]], color=INK, linewidth=0.9, linestyle=(0, (2, 3)))
        axes.text(0.99, 0.04, "dotted: a straight line", transform=axes.transAxes, color=SOFT, fontsize=8, ha="right")
    axes.axhline(0, color=SOFT, linewidth=0.8, linestyle=(0, (1, 2)))
    title = "Signal against noise: one schedule, learned" if schedule.learned else "Signal against noise, by component"
    _dress(axes, title, "", "log SNR")
    half = 0.5 / (CELLS - 1)
    axes.set_xlim(1 + half, -half)
    ticks = np.linspace(1, 0, CELLS)
    axes.set_xticks(ticks, ["1\nnoise", *(f"{t:.1f}" for t in ticks[1:-1]), "0\npicture"])
    axes.annotate(
        "signal\n= noise", (-half, 0), (3, 0), textcoords="offset points", color=SOFT, fontsize=7, va="center"
    )


def _plane(axes: Any, schedule: Schedule, colour: Any) -> None:
    """t_i of the components where the latent has them, mean over channels; lines where groups meet."""
    when = schedule.crossing.mean(0)
    axes.imshow(colour(when.numpy()), interpolation="nearest", aspect="equal")
    group = schedule.group[0]
    for dim in (0, 1):
        moved = (group.diff(dim=dim) != 0).nonzero()
        for row, column in moved.tolist():
            ends = ([column - 0.5, column + 0.5], [row + 0.5] * 2)
            axes.plot(*(ends if dim == 0 else ([column + 0.5] * 2, [row - 0.5, row + 0.5])), color=PAPER, linewidth=1)
    _dress(axes, "When each one appears", "", "")
    for spine in axes.spines.values():
        spine.set_visible(False)
    axes.set_xticks([])
    axes.set_yticks([])
    _key(axes, schedule, colour)


def _ranks(axes: Any, schedule: Schedule, colour: Any) -> None:
    rank, when = schedule.group.flatten() + 1, schedule.crossing.flatten()
    axes.scatter(rank, when, c=colour(when.numpy()).reshape(-1, 4), s=5, linewidths=0)
    axes.set_xscale("log")
    axes.set_ylim(0, 1)
    _dress(axes, "When each one appears", "rank, from coarse to fine", "time t")


def _levels(axes: Any, schedule: Schedule, colour: Any) -> None:
    """dt / d log SNR, so that the area under the curve is all of the time."""
    curve, times = schedule.log_snr[0], schedule.times
    middle, density = (curve[1:] + curve[:-1]) / 2, -times.diff() / curve.diff()
    axes.fill_between(middle, density, color=EVEN, alpha=0.18, linewidth=0)
    axes.plot(middle, density, color=EVEN, linewidth=1.6)
    axes.axhline(float(1 / (curve[0] - curve[-1])), color=SOFT, linewidth=1, linestyle=(0, (2, 3)))
    axes.set_ylim(0)
    axes.invert_xaxis()
    axes.set_xlim(*sorted((float(curve[-1]), float(curve[0]))))
    _dress(axes, "Where the time goes", "log SNR, from noise to picture", "time per unit of log SNR")


def _key(axes: Any, schedule: Schedule, colour: Any) -> None:
    """The colours' meaning, under the plane."""
    if schedule.together:
        axes.text(0, -0.06, "all at the same time", transform=axes.transAxes, color=SOFT, fontsize=8, va="top")
        return
    low, high = float(schedule.crossing.min()), float(schedule.crossing.max())
    bar = axes.inset_axes((0, -0.1, 1, 0.035))
    bar.imshow(colour(np.linspace(high, low, 256)[None]), aspect="auto", extent=(0, 1, 0, 1))
    bar.set_yticks([])
    bar.set_xticks([0, 1], [f"first, t = {high:.2f}", f"last, t = {low:.2f}"])
    bar.tick_params(colors=SOFT, labelsize=8, length=0)
    for label, side in zip(bar.get_xticklabels(), ("left", "right")):
        label.set_horizontalalignment(side)
    for spine in bar.spines.values():
        spine.set_visible(False)


def _strip(axes: Any, pictures: Tensor) -> None:
    """CELLS pictures side by side, each square with a little air, under their times of the axis above."""
    gap = 0.04
    for i, pixels in enumerate(eight_bit(pictures)):
        pixels = pixels.repeat(3, -1) if pixels.shape[-1] == 1 else pixels
        axes.imshow(pixels, extent=(i + gap, i + 1 - gap, gap, 1 - gap), interpolation="nearest", aspect="auto")
    axes.set_xlim(0, CELLS)
    axes.set_ylim(0, 1)
    axes.axis("off")
