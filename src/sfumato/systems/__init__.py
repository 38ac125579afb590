"""Systems: a codec, a prior and a conditioner make p(x | y); a cascade is systems in a row."""

from sfumato.systems.cascade import Cascade
from sfumato.systems.system import System, options_of

__all__ = ["Cascade", "System", "options_of"]
