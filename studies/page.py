"""docs/studies.md from the JSON files of the studies: every claim, whether it holds here, and the picture.

python studies/page.py
"""

from __future__ import annotations

import json

from common import OUT, ROOT

HEAD = """# Studies

Claims of the literature, tried in small on a laptop's processor: a file in `studies/` for each, whose docstring states
the rule by which a claim is said to hold. The rules were written before the trainings that they judge. Where one does
not hold here, it says so: models are small and trainings minutes long, so that "no" means *not at this size*, and "yes"
no more than that.
The figures behind each picture are in the JSON file beside it.
"""


def main() -> None:
    lines = [HEAD]
    for path in sorted(OUT.glob("*.json")):
        record = json.loads(path.read_text())
        holds = record["holds"] if isinstance(record["holds"], dict) else {"the claim": record["holds"]}
        said = " · ".join(f"{name}: {'yes' if held else '**no**'}" for name, held in holds.items())
        lines += [f"## {path.stem.replace('_', ' ')}", "", f"{record['claim']} ({record['source']})", ""]
        lines += [f"{said}", "", f"![{path.stem}](studies/{path.stem}.png)", ""]
        lines += [f"`{record['command']}`, {record['cpu_minutes']} CPU minutes, {record['when']};"]
        lines += [f"[figures](studies/{path.stem}.json).", ""]
    (ROOT / "docs" / "studies.md").write_text("\n".join(lines).rstrip() + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
