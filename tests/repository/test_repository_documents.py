"""The decisions and the changelog fragments of the checkout, and how they are assembled."""

from __future__ import annotations

import datetime as dt
from collections import Counter
from pathlib import Path

import pytest

from headrace.cli import documents
from headrace.errors import HeadraceError

SCREEN = 40
"""Lines that a decision may have."""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout with one release and three fragments."""
    (tmp_path / "CHANGELOG.md").write_text("# Changelog\n\nNotes.\n\n## 0.1.0 - 2026-01-01\n\n### Added\n\n- One.\n")
    fragments = tmp_path / "changelog.d"
    fragments.mkdir()
    (fragments / "fixed-b.md").write_text("- Four,\n  in two lines.\n")
    (fragments / "fixed-a.md").write_text("- Three.")
    (fragments / "added-a.md").write_text("- Two.\n")
    return tmp_path


def test_decision_index_when_rendered_then_the_checkout_has_it() -> None:
    """`make docs` was run after the last decision."""
    index = documents.CHECKOUT / "docs/decisions/README.md"
    assert index.read_text() == documents.decision_index()


def test_decisions_when_listed_then_numbers_are_unique() -> None:
    numbers = Counter(it.number for it in documents.decisions())
    assert [number for number, times in numbers.items() if times > 1] == []


def test_decisions_when_listed_then_each_is_at_most_a_screen() -> None:
    assert [it.path.name for it in documents.decisions() if len(it.path.read_text().splitlines()) > SCREEN] == []


def test_fragments_when_listed_then_all_of_checkout_are_valid() -> None:
    assert len([*(documents.CHECKOUT / "changelog.d").glob("*")]) == sum(map(len, documents.fragments().values()))


@pytest.mark.parametrize(("name", "text"), [("mended-x.md", "- Two.\n"), ("fixed-x.md", "Two.\n")])
def test_fragment_when_invalid_then_it_is_named(checkout: Path, name: str, text: str) -> None:
    (checkout / "changelog.d" / name).write_text(text)
    with pytest.raises(HeadraceError, match=name):
        documents.fragments(checkout)


def test_changelog_when_released_then_fragments_move_into_it(checkout: Path) -> None:
    documents.release_changelog("0.2.0", dt.date(2026, 2, 1), checkout)
    assert (checkout / "CHANGELOG.md").read_text() == (
        "# Changelog\n\nNotes.\n\n"
        "## 0.2.0 - 2026-02-01\n\n### Added\n\n- Two.\n\n### Fixed\n\n- Three.\n- Four,\n  in two lines.\n\n"
        "## 0.1.0 - 2026-01-01\n\n### Added\n\n- One.\n"
    )
    assert list((checkout / "changelog.d").iterdir()) == []
