"""The page of the studies says what their records say, and every test that it names is there."""

import importlib
import json
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
RECORDS = sorted((ROOT / "docs" / "studies").glob("*.json"))


@pytest.fixture(scope="module")
def page():
    sys.path.insert(0, str(ROOT / "studies"))
    try:
        yield importlib.import_module("page")
    finally:
        sys.path.remove(str(ROOT / "studies"))


def test_the_page_is_what_the_records_say(page):
    assert (ROOT / "docs" / "studies.md").read_text(encoding="utf-8") == page.page(), "run studies/page.py"


def test_every_direction_is_a_rule_of_a_study_or_a_test(page):
    for system, rows in page.DIRECTIONS.items():
        for what, place, names in rows:
            if "/" in place:
                found = re.findall(r"^def (test_\w+)", (ROOT / "tests" / f"{place}.py").read_text(), re.MULTILINE)
            else:
                found = json.loads((ROOT / "docs" / "studies" / f"{place}.json").read_text())["holds"]
            assert set(names) <= set(found), (system, what)


@pytest.mark.parametrize("record", RECORDS, ids=lambda path: path.stem)
def test_a_study_states_its_rules_before_it_runs(record):
    """Every rule that its record answers stands in its docstring, and its picture lies beside the record."""
    found = json.loads(record.read_text())
    source = (ROOT / "studies" / f"{record.stem}.py").read_text(encoding="utf-8")
    stated = source.split('"""')[1].replace("`", "")
    assert found["command"] == f"python studies/{record.stem}.py"
    for rule in found["holds"]:
        assert re.search(rf"(^|\s){re.escape(rule)}(\s|,|:)", stated), rule
    assert record.with_suffix(".png").is_file()
