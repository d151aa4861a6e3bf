"""Status of a resource after failed reconcile passes: the last observed state, with the cause of the failure."""

from __future__ import annotations

from collections.abc import Sequence

from headrace.api import vocabulary as v
from headrace.reconcile.conditions import Condition, rendered
from headrace.reconcile.world import Manifest


def failure_status(manifest: Manifest, why: str, wall: float, types: Sequence[str]) -> Manifest:
    """Return the status of a resource whose reconcile passes fail.

    Ready is kept if it was observed for the present spec; it is False for a spec that was never applied. For a kind
    without the condition Progressing, Ready reports the failure in any case.

    Args:
        manifest: the resource.
        why: the error of the last pass.
        wall: Unix time.
        types: the conditions of its kind.
    """
    before, generation = manifest.get("status", {}), manifest["metadata"].get("generation", 1)
    known = {condition["type"]: condition for condition in before.get("conditions", [])}
    message = f"the last reconcile passes failed; the next one follows after a back-off: {why}"
    changed = {}
    if v.PROGRESSING in types:
        changed[v.PROGRESSING] = Condition(v.PROGRESSING, "Unknown", v.RECONCILE_FAILED, message)
    if known.get(v.READY, {}).get("observedGeneration") != generation:
        changed[v.READY] = Condition(v.READY, "False", v.RECONCILE_FAILED, message)
    elif v.PROGRESSING not in types:
        changed[v.READY] = Condition(v.READY, "Unknown", v.RECONCILE_FAILED, message)
    for type_ in types:
        if type_ not in known and type_ not in changed:
            changed[type_] = Condition(type_, "Unknown", v.PENDING, "not observed yet")
    new = {
        condition["type"]: condition for condition in rendered(changed.values(), [*known.values()], generation, wall)
    }
    return {**before, "conditions": [new.get(type_) or known[type_] for type_ in types]}
