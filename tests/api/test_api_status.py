"""The model of a status refuses what the schema of the CRD refuses."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from headrace.kinds.modeldeployment.status import Status

CONDITION = {
    "type": "Ready",
    "status": "True",
    "reason": "Idle",
    "message": "at zero",
    "observedGeneration": 1,
    "lastTransitionTime": "2026-01-01T00:00:00Z",
}


def test_status_when_sound_then_it_is_valid() -> None:
    status = {"replicas": 1, "revisions": [{"name": "5f9c"}], "capabilities": ["Drain"], "conditions": [CONDITION]}
    assert Status.model_validate(status).model_dump(by_alias=True, exclude_none=True) == status


@pytest.mark.parametrize(
    "status",
    [
        {"replica": 1},
        {"replicas": 1.0},
        {"url": None, "publicName": 3},
        {"publicName": "x" * 129},
        {"capabilities": ["Drain"] * 17},
        {"revisions": [{"replicas": 1}]},
        {"conditions": [CONDITION | {"status": "Maybe"}]},
        {"conditions": [CONDITION | {"message": "x" * 1025}]},
        {"conditions": [CONDITION | {"lastTransitionTime": "yesterday"}]},
        {"conditions": [CONDITION | {"lastTransitionTime": "2026-01-01T00:00:00"}]},
    ],
)
def test_status_when_unsound_then_it_is_refused(status: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Status.model_validate(status)
