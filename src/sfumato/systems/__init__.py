"""Systems: a codec, a prior and a conditioner make p(x | y); a cascade is systems in a row."""

from sfumato.systems.cascade import Cascade
from sfumato.systems.classifier import Classifier
from sfumato.systems.options import options_of
from sfumato.systems.system import System

__all__ = ["Cascade", "Classifier", "System", "options_of"]
