"""What each dial does, and between which numbers: what `train --help` says of it and what is refused before anything
is built.

A dial means the same in every recipe that has it; where two recipes mean different things by one name, the entry is
called RECIPE.DIAL. Ranges are what builds and may be sensible: a `side` of millions would be refused by the memory, not
by a sentence.
"""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class About:
    """A sentence, and the numbers that are allowed: from `low` to `high`, or one of `among`."""

    help: str
    low: float = -math.inf
    high: float = math.inf
    among: tuple[int, ...] = ()

    @property
    def range(self) -> str:
        """The allowed numbers in words; "" where all are."""
        if self.among:
            return f"one of {', '.join(map(str, self.among))}"
        if math.isinf(self.low) and math.isinf(self.high):
            return ""
        return f"from {self.low:g} to {self.high:,g}" if self.high < 1e6 else f"from {self.low:g} to {self.high:,.0f}"

    def allows(self, number: float) -> bool:
        """NaN and the infinities are nowhere allowed, nor a whole number that no float holds."""
        try:
            finite = math.isfinite(number)
        except OverflowError:
            return False
        return finite and (number in self.among if self.among else self.low <= number <= self.high)


MOST_CODES = 2**20
ABOUT: dict[str, About] = {
    "size": About(
        "how large the networks are and how long they train: xs a test, s a laptop, m a GPU, paper published"
    ),
    "side": About("the pictures' side in pixels; none: the size's own", 1, 4096),
    "channels": About("1 for grey pictures, 3 for colour; train takes grey where all pictures are", 1, 16),
    "classes": About(
        "how many classes are told apart; none: the published model's where it has some. train counts the set's labels",
        0,
        1_000_000,
    ),
    "text": About("whether the prior reads captions; train switches it on where the set has them"),
    "factor": About("pixels a side that become one position of the latent", among=(1, 2, 4, 8, 16, 32)),
    "cascade.factor": About("how many times larger the second picture is than the first", 2, 64),
    "depth": About("numbers at each position of the latent, or in each code", 1, 4096),
    "codes": About("how many vectors the codebook holds", 2, MOST_CODES),
    "levels": About("how many levels each channel is rounded to, with commas between: 8,5,5,5 makes 1000 codes"),
    "pixel-ar.levels": About(
        "how many values a pixel can take: 256 are all, fewer are coarser colours",
        among=tuple(2**k for k in range(1, 9)),
    ),
    "noise": About(
        "added to latents in training, in their deviations, so that the decoder bears a prior's errors", 0, 10
    ),
    "beta": About("weight of the latents' cost: more makes them simpler, less the pictures sharper", 0, 1e6),
    "codec": About(
        "what makes the latents: an autoencoder's recipe, a way to read pixels, or JSON as recipe.json has it"
    ),
    "order": About("which position comes after which; any: every order is learned"),
    "gud-columns.order": About("what comes one after another while the picture appears"),
    "gud-wavelet-columns.order": About("what comes one after another while the picture appears"),
    "attention": About("sparse: along rows and columns only, cheaper where pictures are large"),
    "head": About("how each vector is drawn: by a mixture of Gaussians, or by a small diffusion"),
    "coupling": About("how half of a picture transforms the other: scale and shift, shift alone, or splines"),
    "softness": About("1: all components at once; less: one after another. 0.5-2 trains a range to choose from later"),
    "exponent": About("the noise has the data's covariance to this power: 0 is white noise, 1 whitens the data", -8, 8),
    "basis": About("in what the latents' schedule is staggered"),
    "schedule": About("how noise grows with time; learned: cosine, and the variance of a step is learned too"),
    "design": About("of generator and critic: a modern residual one, or a published one of the past"),
    "augment": About("shows the critic moved, recoloured, cut pictures, as sets of hundreds want it"),
    "context": About("tokens of a text at most, its beginning and end among them; none: the size's own", 3, 65_536),
    "patch": About("pixels a side that become one position; none: the size's own, or the published 16", 1, 4096),
    "trunk": About("the transformer: the size's own, or a published one, tiny to huge"),
    "vit.augment": About("what is changed of a picture in training: a part of it enlarged, and left and right swapped"),
    "config": About("the text of the config.json of a published autoencoder"),
}


def about(recipe: str, dial: str) -> About:
    """What is known of a recipe's dial; a recipe from elsewhere may have dials of its own."""
    return ABOUT.get(f"{recipe}.{dial}") or ABOUT.get(dial) or About("a dial of the recipe's own")
