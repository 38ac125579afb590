"""The table of verbs, in the order in which a person meets them."""

from __future__ import annotations

from sfumato.cli.classifying import CLASSIFYING
from sfumato.cli.completion import COMPLETING
from sfumato.cli.drawing import DRAWING
from sfumato.cli.growing import GROWING
from sfumato.cli.painting import PAINTING
from sfumato.cli.parser import Verb
from sfumato.cli.sets import SETS
from sfumato.cli.sharing import SHARING
from sfumato.cli.telling import TELLING
from sfumato.cli.training import TRAINING

LIST, INFO, SCORE, REPORT = TELLING
(DATA,) = SETS
ROWS = (LIST, INFO, DATA, *TRAINING, *DRAWING, *PAINTING, *GROWING, *CLASSIFYING, SCORE, REPORT, *SHARING, *COMPLETING)
VERBS: dict[str, Verb] = {verb.name: verb for verb in ROWS}
