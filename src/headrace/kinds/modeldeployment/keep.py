"""What outlives the replicas of a model, as far as the world has it."""

from __future__ import annotations

from headrace.kinds.modeldeployment.spec import Keep, Spec
from headrace.reconcile.world import Settings


def kept(spec: Spec, settings: Settings) -> Keep:
    """Return what is kept: less than the spec asks for, if the world does not have it."""
    if spec.scaling is None or not settings.node_agent:
        return "Nothing"
    return spec.scaling.cold_start.keep
