"""The conditions of a resource: always all that its kind has, each with its generation and a message."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Literal

from headrace.api import vocabulary as v
from headrace.reconcile.world import Event, Manifest

Status = Literal["True", "False", "Unknown"]
FAILED_CREATE = ("ReplicaFailure", "True", "FailedCreate")
"""Type, status and reason of the condition by which a Deployment reports that its pods are refused."""
MAX_MESSAGE = 1024
MESSAGE_SECONDS = 1.0
"""At least so long a message stays as it is while its reason does."""


@dataclass(frozen=True, slots=True)
class Condition:
    """A condition's status, its reason, and a message for a person."""

    type: str
    status: Status
    reason: str
    message: str


WARNINGS = frozenset(
    {
        v.INVALID_SPEC,
        v.NAME_TAKEN,
        v.SOURCE_NOT_ALLOWED,
        v.SOURCE_UNREACHABLE,
        v.DIGEST_MISMATCH,
        v.NO_SPACE,
        v.FETCH_FAILED,
        v.CRASH_LOOP,
        v.OOM_KILLED,
        v.UNSCHEDULABLE,
        v.IMAGE_PULL_FAILED,
        v.REFUSED,
        v.STARTUP_DEADLINE_EXCEEDED,
        v.NO_CAPACITY_FOR_SURGE,
    }
)
"""Reasons whose appearance is a Warning event."""
_ANNOUNCED = frozenset({v.ACCEPTED, v.MODEL_CACHED, v.WORKLOADS_READY})
"""Conditions whose new reason makes an event; the others follow from them."""
_SCALED_DOWN_FOR_ROOM = (v.NO_CAPACITY_FOR_SURGE, "True")
_NEWS = frozenset({v.CACHED, v.RUNNING})
"""Reasons whose appearance is worth a Normal event."""


def clipped(message: str) -> str:
    """Return the message, cut to what a condition, an event and a route may hold."""
    return message if len(message) <= MAX_MESSAGE else f"{message[: MAX_MESSAGE - 1]}…"


def counted(number: int, noun: str) -> str:
    """Return so many of something: `1 replica`, `2 replicas`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def timestamp(wall: float) -> str:
    """Return a Unix time as Kubernetes writes it."""
    return datetime.fromtimestamp(wall, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def rendered(conditions: Iterable[Condition], before: list[Manifest], generation: int, wall: float) -> list[Manifest]:
    """Return the conditions as they are written; the time of the last transition is kept while the status is."""
    old = {condition["type"]: condition for condition in before}
    result = []
    for condition in conditions:
        previous = old.get(condition.type, {})
        same = previous.get("status") == condition.status
        result.append(
            {
                "type": condition.type,
                "status": condition.status,
                "reason": condition.reason,
                "message": clipped(condition.message),
                "observedGeneration": generation,
                "lastTransitionTime": previous["lastTransitionTime"] if same else timestamp(wall),
            }
        )
    return result


def conditions_of(resource: Manifest, conditions: Iterable[Condition], wall: float) -> list[Manifest]:
    """Return the conditions as they are written into the status of a resource."""
    before = resource.get("status", {}).get("conditions", [])
    return rendered(conditions, before, resource["metadata"]["generation"], wall)


@dataclass(frozen=True, slots=True)
class Told:
    """Conditions as they are to be written, and what to remember."""

    conditions: list[Condition]
    changed: float
    """When a message was last changed while its reason stayed (monotonic seconds)."""
    withheld: bool
    """Whether a newer message waits for its second to come."""


def told(conditions: list[Condition], before: list[Manifest], changed: float, now: float) -> Told:
    """Return the conditions with messages that change at most once a second while their reason stays.

    Each status write goes through the API server to every watcher, so it is no place for progress.
    """
    old = {each["type"]: each for each in before}

    def stays(condition: Condition) -> bool:
        was = old.get(condition.type, {})
        same = (was.get("status"), was.get("reason")) == (condition.status, condition.reason)
        return same and was["message"] != clipped(condition.message)

    if not any(map(stays, conditions)):
        return Told(conditions, changed, withheld=False)
    if now - changed >= MESSAGE_SECONDS:
        return Told(conditions, now, withheld=False)
    kept = [replace(each, message=old[each.type]["message"]) if stays(each) else each for each in conditions]
    return Told(kept, changed, withheld=True)


def events(conditions: Iterable[Condition], before: list[Manifest]) -> list[Event]:
    """Return the events of reasons that are new since `before`."""
    old = {condition["type"]: (condition["status"], condition["reason"]) for condition in before}
    result = []
    for condition in conditions:
        told = condition.type in _ANNOUNCED or (condition.reason, condition.status) == _SCALED_DOWN_FOR_ROOM
        if not told or old.get(condition.type) == (condition.status, condition.reason):
            continue
        if condition.reason in WARNINGS:
            result.append(Event("Warning", condition.reason, clipped(condition.message)))
        elif condition.reason in _NEWS:
            result.append(Event("Normal", condition.reason, clipped(condition.message)))
    return result
