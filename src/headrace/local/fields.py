"""Which fields of a child local mode supports: a field that it would ignore is refused by name."""

from __future__ import annotations

from headrace.control.world import ChildRefused
from headrace.reconcile.world import Manifest


def check_fields(part: Manifest, supported: frozenset[str], path: str) -> None:
    """Raise ChildRefused for a field of `part` that is not supported; `path` is the path of `part` in the child."""
    for field in part:
        if field not in supported:
            raise ChildRefused(f"local mode does not support {path}.{field}", hint="Use a Kubernetes cluster")
