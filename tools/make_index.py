"""Writes src/sfumato/cli/index.json, what the tables of recipes, codecs, priors, data and metrics say.

    python tools/make_index.py

Run it when a table has changed; tests/cli/test_cli_help.py fails until then.
"""

import json

from sfumato.cli.index import PLACE, live

PLACE.write_text(json.dumps(live(), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
print(f"Wrote {PLACE}.")
