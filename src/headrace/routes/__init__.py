"""The route table's types: what the reconcile loop promises to the gateways, one entry per ModelDeployment."""

from headrace.routes.model import Engine, KeyGrant, RevisionWeight, Route, Unavailable

__all__ = ["Engine", "KeyGrant", "RevisionWeight", "Route", "Unavailable"]
