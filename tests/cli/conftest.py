"""The commands' tests: most have a cluster that reconciles nothing."""

from __future__ import annotations

import pytest

from headrace.cli.commands import apply


@pytest.fixture(autouse=True)
def _apply_does_not_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """The condition Accepted, for which `apply` waits, is there at once or never."""
    monkeypatch.setattr(apply, "ACCEPTED_SECONDS", 0.0)
