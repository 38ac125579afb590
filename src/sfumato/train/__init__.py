"""Training: one loop for every model, its optimiser, average, log, and the run that puts them to work.

The room has the name of a verb of the face, `sfumato.train("ddpm", "photos/", out="runs/a")`. Python binds a package to
its name in the parent when anything in it is imported, so the room itself answers the call, whoever came first.
"""

import sys
from types import ModuleType
from typing import Any


class _Room(ModuleType):
    def __call__(self, *arguments: Any, **options: Any) -> Any:
        """`sfumato.train.run.train`, whose signature says what may be asked for."""
        from sfumato.train.run import train

        return train(*arguments, **options)


sys.modules[__name__].__class__ = _Room
