"""The rule of the second kind, and the status when its passes fail."""

from __future__ import annotations

from typing import Any

import pytest
from kinds.greeting import GREETING, greeting, reconcile

from headrace.api.vocabulary import MODEL_DEPLOYMENT, PROGRESSING, READY
from headrace.reconcile.failure_status import failure_status
from headrace.reconcile.world import Manifest, Observed, ResourceKey, Settings, Signals

MODEL = ResourceKey(MODEL_DEPLOYMENT, "default", "smol")
SETTINGS = Settings(gateway_url="http://gateway", nats_url="nats://nats", models_directory="/models")


def resource(**status: Any) -> Manifest:
    made = greeting("hello", MODEL.name)
    made["metadata"].update(namespace="default", uid="g1", generation=2)
    return {**made, "status": status}


def model(status: str) -> Manifest:
    return {"status": {"conditions": [{"type": READY, "status": status, "reason": "Idle"}]}}


def ready_at(generation: int) -> Manifest:
    condition = {"type": READY, "status": "True", "reason": "ModelReady", "message": "it is ready"}
    return {**condition, "observedGeneration": generation, "lastTransitionTime": "2026-01-01T00:00:00Z"}


@pytest.mark.parametrize(
    ("references", "expected"),
    [
        ({}, ("False", "ModelNotFound")),
        ({MODEL: {}}, ("False", "ModelNotReady")),
        ({MODEL: model("False")}, ("False", "ModelNotReady")),
        ({MODEL: model("True")}, ("True", "ModelReady")),
    ],
)
def test_greeting_when_its_model_is_then_it_is(
    references: dict[ResourceKey, Manifest], expected: tuple[str, str]
) -> None:
    outcome = reconcile(resource(), Observed(references=references), Signals(1.0, 1.0), SETTINGS, None)
    (condition,) = outcome.status["conditions"]
    assert (condition["status"], condition["reason"]) == expected
    assert [child.key.name for child in outcome.children] == ["hello-greeting"]
    GREETING.schema().status.model_validate(outcome.status)


@pytest.mark.parametrize(("generation", "status"), [(2, "Unknown"), (1, "False")])
def test_unfinished_without_progressing_is_in_ready(generation: int, status: str) -> None:
    assert PROGRESSING not in GREETING.conditions
    failed = failure_status(resource(conditions=[ready_at(generation)]), "no route", 5.0, GREETING.conditions)
    assert [(each["type"], each["status"], each["reason"]) for each in failed["conditions"]] == [
        (READY, status, "ReconcileFailed")
    ]


@pytest.mark.parametrize("spec", [None, [], {}, {"modelRef": 3}, {"modelRef": {}}])
def test_references_when_spec_unreadable_then_none(spec: Any) -> None:
    assert [*GREETING.references({**resource(), "spec": spec})] == []
    assert [*GREETING.references(resource())] == [MODEL]
