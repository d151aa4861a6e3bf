"""Every status that the rule writes in these tests is one that the CRD's schema allows."""

from __future__ import annotations

from typing import Any

import pytest
from reconcile import reconcile_world

from headrace.api.model_deployment_status import Status
from headrace.reconcile.model_deployment import Memory, reconcile
from headrace.reconcile.world import Outcome


@pytest.fixture(autouse=True)
def valid_statuses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Validate the status of each outcome against the model: an API server drops unknown fields without a word."""

    def checked(*arguments: Any) -> Outcome[Memory]:
        outcome = reconcile(*arguments)
        Status.model_validate(outcome.status)
        return outcome

    monkeypatch.setattr(reconcile_world, "reconcile", checked)
