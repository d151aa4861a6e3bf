"""Columns of object lists: for kubectl (in the CRD) and for `headrace get`."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from headrace.api.vocabulary import READY

Object = dict[str, Any]


@dataclass(frozen=True, slots=True)
class PrinterColumn:
    """A column of `kubectl get`; priority 1 is shown with `-o wide` only."""

    name: str
    type: Literal["string", "integer", "date"]
    json_path: str
    priority: Literal[0, 1] = 0


@dataclass(frozen=True, slots=True)
class Column:
    """A column of `headrace get`; a `wide` column is shown with `-o wide` only."""

    title: str
    value: Callable[[Object], str]
    wide: bool = False


def age(timestamp: str | None, now: float | None = None) -> str:
    """Return the age of an RFC 3339 time in kubectl's notation: 12s, 5m, 3h, 2d."""
    if not timestamp:
        return "<none>"
    seconds = int((time.time() if now is None else now) - datetime.fromisoformat(timestamp).timestamp())
    for unit, length in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= 2 * length:
            return f"{seconds // length}{unit}"
    return f"{max(seconds, 0)}s"


def condition(obj: Object, type_: str) -> Object:
    """Return a condition of an object; empty if absent."""
    for item in obj.get("status", {}).get("conditions", []):
        if item["type"] == type_:
            return dict(item)
    return {}


def replicas(obj: Object) -> str:
    """Return an object's ready and total replicas, e.g. 1/2."""
    status = obj.get("status", {})
    return f"{status.get('readyReplicas', 0)}/{status.get('replicas', 0)}"


NAME = Column("NAME", lambda o: str(o["metadata"]["name"]))
READY_STATUS = Column("READY", lambda o: str(condition(o, READY).get("status", "Unknown")))
READY_STATUS_PRINTED = PrinterColumn("Ready", "string", f'.status.conditions[?(@.type=="{READY}")].status')
AGE = Column("AGE", lambda o: age(o["metadata"].get("creationTimestamp")))
AGE_PRINTED = PrinterColumn("Age", "date", ".metadata.creationTimestamp")
