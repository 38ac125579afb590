"""Codec, prior and conditioner are looked at once, when a system is put together: parts that do not fit are refused."""

from __future__ import annotations

from sfumato.core.contracts import Codec, Conditioner, Prior
from sfumato.core.errors import Misfit
from sfumato.core.space import Grid, varies
from sfumato.systems import matter


def refuse_misfits(codec: Codec, prior: Prior | None, conditioner: Conditioner | None) -> None:
    if prior is None:
        if conditioner is not None:
            raise Misfit("A condition without a prior has nobody to listen to it. Hand a prior in, or no conditioner.")
        return
    if not isinstance(codec.space, prior.spaces):
        accepted = " or ".join(kind.__name__ for kind in prior.spaces)
        raise Misfit(
            f"{type(prior).__name__} models {accepted}, but {type(codec).__name__} yields {codec.space}. "
            "Choose a prior for that kind of latent, or a codec with another bottleneck."
        )
    if varies(codec.space) and not prior.varying:
        raise Misfit(
            f"{type(prior).__name__} models sequences of one length, and that of {codec.space}, which "
            f"{type(codec).__name__} yields, varies. An Autoregressive prior or a Diffusion draws how many there are."
        )
    if codec.space != prior.space:
        raise Misfit(
            f"{type(prior).__name__} was built for {prior.space}, but {type(codec).__name__} yields {codec.space}. "
            "Build the prior with space=codec.space."
        )
    if "image" in matter.entries(codec) and not isinstance(codec.data, Grid):
        raise Misfit(f"Images are a Grid, and {type(codec).__name__} says that its data are {codec.data}.")
