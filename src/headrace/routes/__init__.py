"""Types of the route table, which the reconcile loop publishes to the gateways: one entry per ModelDeployment."""

from headrace.routes.model import Engine, KeyGrant, RevisionWeight, Route, Unavailable

__all__ = ["Engine", "KeyGrant", "RevisionWeight", "Route", "Unavailable"]
