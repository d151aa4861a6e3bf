"""ModelDeployment: one served model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from headrace.api import kinds
from headrace.api.vocabulary import CONDITIONS, READY
from headrace.kinds.columns import AGE, AGE_PRINTED, NAME, Column, PrinterColumn, condition, replicas
from headrace.kinds.resource_kind import ResourceKind

if TYPE_CHECKING:
    from headrace.api.schema import Schema

_READY_PATH = f'.status.conditions[?(@.type=="{READY}")]'


def _schema() -> Schema:
    from headrace.kinds.modeldeployment.resource import SCHEMA  # noqa: PLC0415 - pydantic; see ResourceKind.schema

    return SCHEMA


MODEL_DEPLOYMENT = ResourceKind(
    kind=kinds.MODEL_DEPLOYMENT,
    schema=_schema,
    conditions=CONDITIONS,
    children=(
        kinds.DEPLOYMENT,
        kinds.JOB,
        kinds.SERVICE,
        kinds.SERVICE_ACCOUNT,
        kinds.POD_DISRUPTION_BUDGET,
        kinds.NETWORK_POLICY,
    ),
    printer_columns=(
        PrinterColumn("Ready", "string", f"{_READY_PATH}.status"),
        PrinterColumn("Reason", "string", f"{_READY_PATH}.reason"),
        PrinterColumn("Runtime", "string", ".spec.runtime.type"),
        PrinterColumn("Replicas", "integer", ".status.replicas"),
        PrinterColumn("URL", "string", ".status.url"),
        AGE_PRINTED,
        PrinterColumn("Model", "string", ".status.publicName", priority=1),
    ),
    columns=(
        NAME,
        Column("READY", lambda o: str(condition(o, READY).get("status", "Unknown"))),
        Column("REASON", lambda o: str(condition(o, READY).get("reason", ""))),
        Column("RUNTIME", lambda o: str(o["spec"].get("runtime", {}).get("type", ""))),
        Column("REPLICAS", replicas),
        Column("URL", lambda o: str(o.get("status", {}).get("url", ""))),
        AGE,
        Column("MODEL", lambda o: str(o.get("status", {}).get("publicName", "")), wide=True),
        Column("MESSAGE", lambda o: str(condition(o, READY).get("message", "")), wide=True),
    ),
    scalable=True,
)
