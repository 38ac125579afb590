"""The table of verbs, in the order in which a person meets them."""

from __future__ import annotations

from sfumato.cli.classifying import CLASSIFY, EMBED
from sfumato.cli.coding import DECODE, ENCODE
from sfumato.cli.completion import completing
from sfumato.cli.describing import INFO
from sfumato.cli.growing import GROWING
from sfumato.cli.interpolating import INTERPOLATE
from sfumato.cli.listing import LIST
from sfumato.cli.painting import PAINTING
from sfumato.cli.parser import Verb
from sfumato.cli.rebuilding import RECONSTRUCT
from sfumato.cli.reporting import REPORT
from sfumato.cli.sampling import SAMPLE
from sfumato.cli.scoring import SCORE
from sfumato.cli.sets import SETS
from sfumato.cli.sharing import SHARING
from sfumato.cli.training import TRAINING

DRAWING = (SAMPLE, RECONSTRUCT, ENCODE, DECODE, INTERPOLATE)
ROWS = (LIST, INFO, *SETS, *TRAINING, *DRAWING, *PAINTING, *GROWING, CLASSIFY, EMBED, SCORE, REPORT, *SHARING)
VERBS: dict[str, Verb] = {verb.name: verb for verb in ROWS}
VERBS["completion"] = completing(VERBS)
