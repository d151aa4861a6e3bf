"""Conditions and events of a resource. The status always has all conditions of the kind."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Literal

from headrace.api import vocabulary as v
from headrace.reconcile.world import Event, Manifest

Status = Literal["True", "False", "Unknown"]
FAILED_CREATE = ("ReplicaFailure", "True", "FailedCreate")
"""Type, status and reason of the condition by which a Deployment reports refused pods."""
MAX_MESSAGE = 1024
MESSAGE_SECONDS = 1.0
"""Minimum time between two changes of a message with the same reason."""


@dataclass(frozen=True, slots=True)
class Condition:
    """A condition: status, reason, and a human-readable message."""

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
"""Reasons that are recorded as Warning events."""
_WITH_EVENTS = frozenset({v.ACCEPTED, v.MODEL_CACHED, v.WORKLOADS_READY})
"""Conditions whose new reason is recorded as an event; the others derive from them."""
_SCALED_DOWN_FOR_ROOM = (v.NO_CAPACITY_FOR_SURGE, "True")
_NORMAL = frozenset({v.CACHED, v.RUNNING})
"""Reasons that are recorded as Normal events."""


def clipped(message: str) -> str:
    """Return the message, cut to the limit of conditions, events and routes."""
    return message if len(message) <= MAX_MESSAGE else f"{message[: MAX_MESSAGE - 1]}…"


def counted(number: int, noun: str) -> str:
    """Return a number with its noun: `1 replica`, `2 replicas`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def timestamp(wall: float) -> str:
    """Return a Unix time in Kubernetes' format."""
    return datetime.fromtimestamp(wall, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def rendered(conditions: Iterable[Condition], before: list[Manifest], generation: int, wall: float) -> list[Manifest]:
    """Return the conditions for the status; lastTransitionTime changes only with a condition's status."""
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
class ThrottledMessages:
    """Conditions for the status, and the state of the throttling."""

    conditions: list[Condition]
    changed: float
    """Monotonic time of the last change of a message without a change of its reason."""
    withheld: bool
    """Whether a newer message is withheld."""


def throttle_messages(
    conditions: list[Condition], before: list[Manifest], changed: float, now: float
) -> ThrottledMessages:
    """Limit changes of messages without a change of the reason to one per second.

    The API server sends each status write to every watcher, so messages must not change with each step of progress.
    """
    old = {each["type"]: each for each in before}

    def only_message_changed(condition: Condition) -> bool:
        was = old.get(condition.type, {})
        same = (was.get("status"), was.get("reason")) == (condition.status, condition.reason)
        return same and was["message"] != clipped(condition.message)

    if not any(map(only_message_changed, conditions)):
        return ThrottledMessages(conditions, changed, withheld=False)
    if now - changed >= MESSAGE_SECONDS:
        return ThrottledMessages(conditions, now, withheld=False)
    kept = [
        replace(each, message=old[each.type]["message"]) if only_message_changed(each) else each for each in conditions
    ]
    return ThrottledMessages(kept, changed, withheld=True)


def events(conditions: Iterable[Condition], before: list[Manifest]) -> list[Event]:
    """Return the events of reasons that are new since `before`."""
    old = {condition["type"]: (condition["status"], condition["reason"]) for condition in before}
    result = []
    for condition in conditions:
        reported = condition.type in _WITH_EVENTS or (condition.reason, condition.status) == _SCALED_DOWN_FOR_ROOM
        if not reported or old.get(condition.type) == (condition.status, condition.reason):
            continue
        if condition.reason in WARNINGS:
            result.append(Event("Warning", condition.reason, clipped(condition.message)))
        elif condition.reason in _NORMAL:
            result.append(Event("Normal", condition.reason, clipped(condition.message)))
    return result
