"""Systems: a codec, a prior and a conditioner make p(x | y); a cascade is systems in a row; together, systems share."""

from sfumato.systems.cascade import Cascade
from sfumato.systems.classifier import Classifier
from sfumato.systems.joint import Joint
from sfumato.systems.options import options_of
from sfumato.systems.system import System
from sfumato.systems.together import Together

__all__ = ["Cascade", "Classifier", "Joint", "System", "Together", "options_of"]
