"""docs/security.md says which tests hold what: it may say nothing else than the tests' own marks."""

from __future__ import annotations

import security_table
from security_table import ATTACKS, FAULTS, OPEN, PAGE, holders, written

ROWS = ATTACKS | FAULTS


def test_the_table_is_what_the_marks_say() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert page == written(page), "run: python tests/security_table.py"


def test_every_row_has_a_test_or_a_reason_why_not_and_never_both() -> None:
    held = set(holders())
    assert ROWS.keys() - held - OPEN.keys() == set()
    assert held & OPEN.keys() == set()


def test_every_mark_names_a_row() -> None:
    assert holders().keys() <= ROWS.keys()


def test_a_mark_is_found_on_a_test_and_on_a_file(tmp_path, monkeypatch) -> None:
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "test_one.py").write_text(
        "import pytest\n\n@pytest.mark.hostile('S01', 'S02')\nasync def test_it():\n    pass\n"
    )
    (tmp_path / "tests" / "test_two.py").write_text("import pytest\n\npytestmark = pytest.mark.hostile('S02')\n")
    monkeypatch.setattr(security_table, "TESTS", tmp_path / "tests")
    assert dict(holders()) == {
        "S01": ["tests/test_one.py::test_it"],
        "S02": ["tests/test_one.py::test_it", "tests/test_two.py"],
    }
