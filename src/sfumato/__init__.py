"""Every image generator of the literature as a composition of a latent space, a prior over it and a condition.

    system = sfumato.build("vqgan", size="s", side=32)            untrained
    run    = sfumato.train("ldm", "photos/", out="runs/ldm")      a run folder
    system = sfumato.load("runs/ldm")                             trained: averaged weights, eval mode
    sfumato.show(system.sample(16, seeds=range(16)))              a sheet; a notebook shows it, `.save(path)` writes it

Nothing is imported before it is used: `import sfumato` answers at once, and the first name asked of it brings torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sfumato.version import VERSION as __version__

if TYPE_CHECKING:
    from sfumato.checkpoint.hub import load
    from sfumato.recipes import build
    from sfumato.report.show import show
    from sfumato.systems import Cascade, System
    from sfumato.train.run import train

__all__ = ["Cascade", "System", "__version__", "build", "load", "show", "train"]

_WHERE = {
    "build": "sfumato.recipes",
    "load": "sfumato.checkpoint.hub",
    "show": "sfumato.report.show",
    "System": "sfumato.systems",
    "Cascade": "sfumato.systems",
}


def __getattr__(name: str) -> Any:
    import importlib

    if name == "train":
        return importlib.import_module("sfumato.train")  # a room that can be called
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    importlib.import_module("sfumato.checkpoint.hub")  # gives System and Cascade their ways to disk and to the hub
    return getattr(importlib.import_module(_WHERE[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
