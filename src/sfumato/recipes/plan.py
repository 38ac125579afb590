"""How a stage is trained: the numbers that a paper puts in its appendix."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Plan:
    """One stage's training. Rates follow a linear warm-up and a cosine down to `floor` of the peak, both measured in
    progress (the part of the stage that is done, by steps or by minutes), so that a budget ends on time."""

    steps: int = 10_000
    batch: int = 64  # images per step, over all processes and accumulated parts
    rate: float = 3e-4
    betas: tuple[float, float] = (0.9, 0.99)
    decay: float = 0.0  # AdamW's decoupled weight decay, on matrices only
    warmup: float = 0.02
    floor: float = 0.02
    ema: float = 0.999  # reached as min(ema, (1 + n) / (10 + n)) after n steps
    clip: float = 1.0  # of the global gradient norm
    accumulate: int = 1
    flip: bool = False  # left-right augmentation; off, since letters and emoji have a handedness
    cache: bool = True  # a second stage reads latents that were encoded once
