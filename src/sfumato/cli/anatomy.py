"""What a system is made of, counted on the meta device, where tensors have shapes and no memory.

parameters   of codec, prior and conditioner; a cascade's are its systems' sums, of what they share once
compute      multiply-adds × 2 of one picture through the encoder, the decoder and the prior's network, as torch counts
             matrix products, convolutions and attention; a sampler calls the prior once or more for each of its steps
memory       sampling: the weights, 4 bytes a parameter. Training: weights, gradient, two Adam moments and the average,
             20 bytes a trained parameter, and for each picture of the batch what the backward pass keeps

Attention is counted as if its matrix of positions by positions were kept, which fused kernels avoid.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.flop_counter import FlopCounterMode

from sfumato.core.condition import Condition
from sfumato.core.errors import UsageError
from sfumato.core.noise import Noise
from sfumato.recipes import build, plan
from sfumato.systems import System, options_of
from sfumato.systems.abilities import abilities

TRAINED = 20  # bytes a trained parameter: weight, gradient, two moments, average, each float32
KEPT = 4  # bytes a parameter at rest
SMALL = (
    20_000_000  # parameters; what is no larger is built to count what shapes alone do not tell (a codebook's search)
)


def describe(name: str, dials: dict[str, Any]) -> dict[str, Any]:
    """What `sfumato info --json` prints of a recipe."""
    with torch.device("meta"):
        system: Any = build(name, **dials)
    last, read = getattr(system, "last", system), system.recipe["dials"]
    codec = getattr(last, "codec", None)
    size = read.get("size", "s")
    stages = {}
    for stage, objective in system.stages().items():
        numbers = plan(name, stage, size)
        stages[stage] = {
            "parameters": sum(p.numel() for player in objective.players() for p in player),
            "players": len(objective.players()),
            "steps": numbers.steps,
            "batch": numbers.batch,
            "rate": numbers.rate,
        }
    trained = max((stage["parameters"] for stage in stages.values()), default=0)
    total = numel(system)
    cost, kept = compute(system), {stage: activations(system, stage) for stage in stages}
    if None in (*cost.values(), *kept.values()) and total <= SMALL:
        with torch.random.fork_rng([]):
            real = build(name, **dials)
            cost, kept = compute(real), {stage: activations(real, stage) for stage in stages}
    return {
        "name": name,
        "size": size,
        "dials": read,
        "data": str(system.data),
        "space": None if codec is None else str(codec.space),
        "can": list(abilities(system)),
        "parameters": {"total": total, **parts(system)},
        "stages": stages,
        "options": list(dict.fromkeys(o for s in systems(system).values() for o in options(s))),
        "systems": {n: {"parameters": {"total": numel(s), **parts(s)}} for n, s in systems(system).items() if n},
        "compute": {"unit": "FLOP for one picture", **cost},
        "memory": {
            "unit": "bytes",
            "weights": KEPT * total,
            "training": KEPT * total + (TRAINED - KEPT) * trained,
            "per_picture": kept,
        },
    }


def numel(module: nn.Module | None) -> int:
    return 0 if module is None else sum(p.numel() for p in module.parameters())


def systems(built: Any) -> dict[str, Any]:
    """The systems of a cascade by name; a system alone has the name ""."""
    return dict(built.named()) if hasattr(built, "named") else {"": built}


def options(system: Any) -> list[str]:
    """What its sampler can be told in words: `start` is a tensor."""
    prior = getattr(system, "prior", None)
    return [] if prior is None else [name for name in options_of(prior) if name != "start"]


def parts(built: Any) -> dict[str, int]:
    """{"codec", "prior", "conditioner"}: parameters, 0 where a part is absent; and those of a "network" where there is
    one. What systems share counts once."""
    count = lambda part: numel(nn.ModuleList(filter(None, (getattr(s, part, None) for s in systems(built).values()))))
    found = {part: count(part) for part in ("codec", "prior", "conditioner")}
    return found | ({"network": count("network")} if count("network") else {})


def compute(built: Any) -> dict[str, int | None]:
    """FLOPs of "encode", "decode" and "prior", or of the "network", for one picture or text; None where torch cannot
    count on shapes alone."""
    found: dict[str, int | None] = {}
    for name, system in systems(built).items():
        before = f"{name}." if name else ""
        if not isinstance(system, System):
            found[before + "network"] = flops(system.network, torch.zeros(1, *system.data.shape, device=system.device))
            continue
        z = latent(system)
        if system.entries != ("image",):  # to read a text costs nothing that is worth counting
            found[before + "prior"] = flops(prior_loss, system, z) if system.prior is not None else 0
            continue
        found[before + "encode"] = flops(system.codec.encode, torch.zeros(1, *system.codec.data.shape, device=z.device))
        found[before + "decode"] = flops(system.codec.decode, z)
        if system.prior is not None:
            found[before + "prior"] = flops(prior_loss, system, z)
    return found


def latent(system: Any) -> Tensor:
    """One latent, of zeros."""
    whole = hasattr(system.codec.space, "vocab")
    dtype = torch.int64 if whole else torch.float32
    return torch.zeros(1, *system.codec.space.shape, device=device_of(system), dtype=dtype)


def device_of(system: Any) -> torch.device:
    return next((p.device for p in system.parameters()), torch.device("cpu"))


def prior_loss(system: Any, z: Tensor) -> dict[str, Tensor]:
    """The prior's loss with nothing given: one call of its network."""
    condition = Condition.none(1) if system.conditioner is None else system.conditioner.null(1)
    return system.prior.loss(z, condition, Noise.ambient(1, z.device), 0.5)


def flops(run: Callable[..., Any], *arguments: Any) -> int | None:
    with FlopCounterMode(display=False) as counter:
        try:
            with torch.no_grad():
                run(*arguments)
        except (RuntimeError, NotImplementedError):  # it asks for a number, and meta tensors have none
            return None
    return counter.get_total_flops()


def activations(built: Any, stage: str) -> int | None:
    """Bytes that the backward pass keeps of one picture in a stage; None where it cannot be told from shapes."""
    *names, part = stage.split(".")
    system = systems(built)[names[0] if names else ""]
    own = {id(p) for p in system.parameters()}
    seen: dict[int, int] = {}
    alive: list[Tensor] = []  # so that no storage's address is used twice

    def keep(tensor: Tensor) -> Tensor:
        if id(tensor) not in own:
            storage = tensor.untyped_storage()
            seen[storage._cdata] = storage.nbytes()
            alive.append(tensor)
        return tensor

    try:
        with saved_tensors_hooks(keep, lambda tensor: tensor):
            if not isinstance(system, System):
                x = torch.zeros(1, *system.data.shape, device=system.device)
                system.loss({"image": x, "label": torch.zeros(1, dtype=torch.int64, device=system.device)})
            elif part == "codec":
                device = device_of(system)
                x = torch.zeros(1, *system.codec.data.shape, device=device)
                system.codec.loss({"image": x}, 0, Noise.ambient(1, device), 0.5)
            else:
                prior_loss(system, latent(system))
    except (RuntimeError, NotImplementedError, UsageError):
        return None
    return sum(seen.values())
