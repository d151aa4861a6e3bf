"""What holds of every outcome in these tests: the record of the kind names all that it writes."""

from __future__ import annotations

from typing import Any

import pytest
from kinds import reconcile_world

from headrace.kinds.modeldeployment import MODEL_DEPLOYMENT
from headrace.kinds.modeldeployment.reconcile import reconcile
from headrace.kinds.modeldeployment.status import Status
from headrace.reconcile.world import Outcome

CHILDREN = {kind.kind for kind in MODEL_DEPLOYMENT.children}


@pytest.fixture(autouse=True)
def recorded_outcomes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hold the status to its model, and the children to the kinds that the operator watches and may write.

    An API server drops unknown fields of a status without an error.
    """

    def checked(*arguments: Any) -> Outcome[Any]:
        outcome = reconcile(*arguments)
        Status.model_validate(outcome.status)
        assert {child.key.kind for child in outcome.children} <= CHILDREN
        return outcome

    monkeypatch.setattr(reconcile_world, "reconcile", checked)
