"""The gateway's API: the operation table, and the paths of its control application."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from generators.markdown import code, codes, table
from headrace_gateway.control import control_app
from headrace_gateway.metrics import GatewayMetrics
from headrace_gateway.operations import OPERATIONS, OperationTable
from headrace_gateway.table import Table


def operations() -> str:
    """Return the operations that are forwarded to a model."""
    rows = (
        (
            code(each.name),
            code(f"{each.method} {each.path}"),
            each.body.value,
            "always" if each.always_streams else "yes" if each.can_stream else "no",
            codes(each.required),
            each.summary,
        )
        for each in OPERATIONS
    )
    return table(("operation", "request", "body", "streaming", "required fields", "purpose"), rows)


def control() -> str:
    """Return what the gateway answers itself."""
    app = control_app(Table(None, lambda _: None), GatewayMetrics(tuple), OperationTable(()))
    return table(("request", "purpose"), _rows(app.openapi()["paths"]))


def _rows(paths: dict[str, Any]) -> Iterator[tuple[str, str]]:
    for path, methods in paths.items():
        for method, described in methods.items():
            yield code(f"{method.upper()} {path}"), described["description"]
