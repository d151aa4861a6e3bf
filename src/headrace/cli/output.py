"""Output of objects in kubectl's tables and formats."""

from __future__ import annotations

import json
import sys
import unicodedata
from collections.abc import Iterable, Sequence

from headrace.api.kinds import Kind
from headrace.kinds.columns import AGE, NAME, Column, Object, age, replicas
from headrace.kinds.registry import RESOURCE_KINDS


def columns_of(kind: Kind, *, wide: bool, all_namespaces: bool) -> list[Column]:
    """Return the columns of a kind's table."""
    columns = [NAMESPACE] if all_namespaces else []
    resource = RESOURCE_KINDS.get(kind.kind)
    columns += resource.columns if resource is not None else _COLUMNS.get(kind.kind, [NAME, AGE])
    return [column for column in columns if wide or not column.wide]


def table(columns: Sequence[Column], objects: Iterable[Object]) -> list[str]:
    """Return the lines of a table, header first, with columns padded to their widest cell."""
    rows = [[column.title for column in columns]] + [[column.value(obj) for column in columns] for obj in objects]
    widths = [max(len(row[i]) for row in rows) for i in range(len(columns))]
    return ["   ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def dump(obj: Object, output: str) -> str:
    """Return an object as `json` or `yaml`."""
    if output == "json":
        return json.dumps(obj, indent=2)
    import yaml  # noqa: PLC0415 - takes 30 ms, and tables do not need it

    return str(yaml.safe_dump(obj, sort_keys=False)).rstrip()


def public_name(model: Object) -> str:
    """Return the public name of a ModelDeployment: the value of the field `model` in requests."""
    return str(model["spec"].get("model", {}).get("name") or model["metadata"]["name"])


def last_seen(event: Object) -> str:
    """Return the last timestamp of an Event, the sort key of events."""
    return str(event.get("lastTimestamp", ""))


def width(text: str) -> int:
    """Return the terminal columns of a text: one for most characters, two for East Asian ones, none for accents."""
    return sum(_char_width(char) for char in text)


def clip(text: str, columns: int) -> str:
    """Return the text as one line of at most `columns` columns, so that a terminal never wraps it.

    Control characters become spaces: a message may contain a program's output, which could move the cursor.
    """
    line = "".join(char if char.isprintable() else " " for char in text)
    if width(line) <= columns:
        return line
    free, kept = columns - 1, ""
    for char in line:
        free -= _char_width(char)
        if free < 0:
            break
        kept += char
    return kept + "…"


def _char_width(char: str) -> int:
    if unicodedata.combining(char):
        return 0
    return 2 if unicodedata.east_asian_width(char) in "WF" else 1


def is_terminal() -> bool:
    """Whether standard output is a terminal."""
    return sys.stdout.isatty()


def pod_status(pod: Object) -> str:
    """Return the status of a pod in one word, as kubectl does."""
    if pod["metadata"].get("deletionTimestamp"):
        return "Terminating"
    for status in pod.get("status", {}).get("containerStatuses", []):
        state = status.get("state", {})
        for phase in ("waiting", "terminated"):
            if state.get(phase, {}).get("reason"):
                return str(state[phase]["reason"])
    return str(pod.get("status", {}).get("phase", "Unknown"))


def _containers_ready(pod: Object) -> str:
    statuses = pod.get("status", {}).get("containerStatuses", [])
    return f"{sum(bool(s.get('ready')) for s in statuses)}/{len(pod['spec']['containers'])}"


def _restarts(pod: Object) -> str:
    return str(sum(s.get("restartCount", 0) for s in pod.get("status", {}).get("containerStatuses", [])))


def _job_status(job: Object) -> str:
    conditions = [c["type"] for c in job.get("status", {}).get("conditions", []) if c["status"] == "True"]
    return str(conditions[0]) if conditions else "Running"


def _event_object(event: Object) -> str:
    involved = event.get("involvedObject", {})
    return f"{str(involved.get('kind', '')).lower()}/{involved.get('name', '')}"


NAMESPACE = Column("NAMESPACE", lambda o: str(o["metadata"]["namespace"]))
_COLUMNS: dict[str, list[Column]] = {  # of Kubernetes' kinds; those of headrace's kinds are in the registry
    "Pod": [
        NAME,
        Column("READY", _containers_ready),
        Column("STATUS", pod_status),
        Column("RESTARTS", _restarts),
        AGE,
        Column("IP", lambda o: str(o.get("status", {}).get("podIP", "<none>")), wide=True),
    ],
    "Deployment": [NAME, Column("READY", replicas), AGE],
    "Job": [
        NAME,
        Column("STATUS", _job_status),
        AGE,
    ],
    "Secret": [
        NAME,
        Column("TYPE", lambda o: str(o.get("type", "Opaque"))),
        Column("DATA", lambda o: str(len(o.get("data") or {}))),
        AGE,
    ],
    "ConfigMap": [NAME, Column("DATA", lambda o: str(len(o.get("data") or {}))), AGE],
    "Event": [
        Column("LAST SEEN", lambda o: age(o.get("lastTimestamp"))),
        Column("TYPE", lambda o: str(o.get("type", ""))),
        Column("REASON", lambda o: str(o.get("reason", ""))),
        Column("OBJECT", _event_object),
        Column("MESSAGE", lambda o: str(o.get("message", ""))),
    ],
}
