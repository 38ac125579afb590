"""Games of a generator and a critic, by design; and the recipe gan, whose latent is the picture itself.

design    generator and critic                       loss             penalties    published
modern    inverted residual blocks, no norm          relativistic     R1 and R2    R3GAN, arXiv:2501.05441
sngan     residual blocks; spectral norm             hinge            none         SNGAN, arXiv:1802.05957
dcgan     strided convolutions with norm             non-saturating   R1           DCGAN, arXiv:1511.06434

Both players step in every step, by one plan (sizes.STEPS["adversarial"]); SNGAN's critic stepped five times. DCGAN had
no penalty, and forgets modes without one (docs/studies/gan_collapse.json).
"""

from __future__ import annotations

import math
from typing import Any, Literal

from sfumato.codecs.pixels import Pixels
from sfumato.core.space import Grid
from sfumato.nn.players.discriminator import DCDiscriminator, Discriminator, SNDiscriminator
from sfumato.nn.players.generator import DCGenerator, Generator, SNGenerator
from sfumato.priors.adversarial import Adversarial
from sfumato.recipes.frame import Frame
from sfumato.recipes.given import Doors, given
from sfumato.recipes.sizes import DCGAN, GAME, SNGAN, Size, planner
from sfumato.recipes.table import add
from sfumato.systems import System

Design = Literal["modern", "sngan", "dcgan"]
PUBLISHED_SIDE = {"modern": 256, "sngan": 32, "dcgan": 64}
PENALTY = {32: 0.05, 64: 2.0, 256: 150.0}  # by side: γ of R3GAN on CIFAR-10 and on FFHQ, at the start of its training


def game(design: Design, size: Size, space: Grid, doors: Doors, pictures: bool, augment: bool = False) -> Adversarial:
    """`pictures`: whether the latent is a picture in [−1, 1], whose values tanh bounds where the paper has it so, and
    whose colours `augment` may change; of other latents it changes places only."""
    vector = doors.vector
    changes = (("colour",) if pictures else ()) + ("translation", "cutout") if augment else ()
    if design == "sngan":
        widths = SNGAN[size]
        return Adversarial(
            space,
            SNGenerator(space, width=widths[0], vector=vector, bounded=pictures),
            SNDiscriminator(space, width=widths[1], vector=vector),
            loss="hinge",
            augment=changes,
        )
    if design == "dcgan":
        width = DCGAN[size]
        return Adversarial(
            space,
            DCGenerator(space, width=width, vector=vector, bounded=pictures),
            DCDiscriminator(space, width=width, vector=vector),
            loss="non-saturating",
            r1=0.1,
            every=4,
            augment=changes,
        )
    dims = GAME[size]
    patch = dims.patch if pictures else 1  # a latent's positions are patches already
    shape: dict[str, Any] = {
        "widths": dims.ladder(max(space.height, space.width) // patch),
        "blocks": dims.blocks,
        "patch": patch,
        "vector": vector,
    }
    bounded = pictures and size != "paper"  # flat white and black are learned sooner; R3GAN has no tanh
    weight = 1.0  # of R3GAN on stacked MNIST
    if size == "paper":
        weight = PENALTY[min(PENALTY, key=lambda side: abs(math.log(side / max(space.height, space.width))))]
    return Adversarial(
        space,
        Generator(space, bounded=bounded, full=dims.full, **shape),
        Discriminator(space, **shape),
        r1=weight,
        r2=weight,
        every=1 if size == "paper" else 4,
        augment=changes,
    )


@add("gan", planner("adversarial"))
def gan(frame: Frame, design: Design = "modern", augment: bool = False) -> System:
    """A generator draws pixels from noise; a critic tells them from real ones (arXiv:2501.05441, arXiv:1406.2661).

    With `augment` the critic sees each picture with its colours and place changed and a part cut out: for some hundreds
    or thousands of pictures, which it would learn by heart (arXiv:2006.10738).
    """
    space = frame.grid(paper=PUBLISHED_SIDE[design])
    conditioner, doors = given(frame)
    return System(Pixels(space), game(design, frame.size, space, doors, True, augment), conditioner)
