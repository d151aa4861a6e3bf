"""What headrace knows of one of its kinds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from headrace.api.kinds import Kind
from headrace.kinds.columns import Column, PrinterColumn

if TYPE_CHECKING:
    from headrace.api.schema import Schema


@dataclass(frozen=True, slots=True)
class ResourceKind:
    """A kind of resource. CRD, validation, local admission, watches and the command line are derived from it.

    A new kind is a package under `headrace.kinds` that makes one, and its line in `headrace.kinds.registry`. The chart
    grants the operator's rights; its tests compare them with the registry.
    """

    kind: Kind
    schema: Callable[[], Schema]
    """Returns the models and rules. Called late: they need pydantic, which the command line should not wait for."""
    conditions: tuple[str, ...]
    """Types of its conditions, in the order in which the status has them."""
    children: tuple[Kind, ...]
    """What it may own, pods aside: the operator watches these, and nothing else is applied for it."""
    printer_columns: tuple[PrinterColumn, ...]
    columns: tuple[Column, ...]
    """Of `headrace get`."""
    scalable: bool = False
    """Whether it has `/scale`: spec.replicas, status.replicas and status.selector."""
