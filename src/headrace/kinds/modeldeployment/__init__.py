"""ModelDeployment: one served model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from headrace.api import kinds
from headrace.api.vocabulary import CONDITIONS, MODEL_LABEL, READY
from headrace.events.subjects import ROUTES_BUCKET
from headrace.kinds.columns import (
    AGE,
    AGE_PRINTED,
    NAME,
    READY_STATUS,
    READY_STATUS_PRINTED,
    Column,
    PrinterColumn,
    condition,
    replicas,
)
from headrace.kinds.resource_kind import ResourceKind

if TYPE_CHECKING:
    from headrace.api.schema import Schema
    from headrace.kinds.controller import Controller


def _schema() -> Schema:
    from headrace.kinds.modeldeployment.resource import SCHEMA  # noqa: PLC0415 - pydantic; see ResourceKind.schema

    return SCHEMA


def _controller() -> Controller:
    from headrace.kinds.modeldeployment.controller import CONTROLLER  # noqa: PLC0415 - as above

    return CONTROLLER


MODEL_DEPLOYMENT = ResourceKind(
    kind=kinds.MODEL_DEPLOYMENT,
    schema=_schema,
    controller=_controller,
    conditions=CONDITIONS,
    children=(
        kinds.DEPLOYMENT,
        kinds.JOB,
        kinds.SERVICE,
        kinds.SERVICE_ACCOUNT,
        kinds.POD_DISRUPTION_BUDGET,
        kinds.NETWORK_POLICY,
    ),
    label=MODEL_LABEL,
    suffix="",
    printer_columns=(
        READY_STATUS_PRINTED,
        PrinterColumn("Reason", "string", f'.status.conditions[?(@.type=="{READY}")].reason'),
        PrinterColumn("Runtime", "string", ".spec.runtime.type"),
        PrinterColumn("Replicas", "integer", ".status.replicas"),
        PrinterColumn("URL", "string", ".status.url"),
        AGE_PRINTED,
        PrinterColumn("Model", "string", ".status.publicName", priority=1),
    ),
    columns=(
        NAME,
        READY_STATUS,
        Column("REASON", lambda o: str(condition(o, READY).get("reason", "")), live=True),
        Column("RUNTIME", lambda o: str(o["spec"].get("runtime", {}).get("type", ""))),
        Column("REPLICAS", replicas, live=True),
        Column("URL", lambda o: str(o.get("status", {}).get("url", ""))),
        AGE,
        Column("MODEL", lambda o: str(o.get("status", {}).get("publicName", "")), wide=True, live=True),
        Column("MESSAGE", lambda o: str(condition(o, READY).get("message", "")), wide=True, live=True),
    ),
    recorded_status=(
        "publicName",
        "source",
        "adapters",
        "revisions",
        "specReplicas",
        "lastColdStart",
        "startFailure",
        "keptOn",
    ),
    buckets=(ROUTES_BUCKET,),
    has_pods=True,
    scalable=True,
)
