"""The status after passes that failed: what was observed stays, and why the newest spec is not carried out is added."""

from __future__ import annotations

from collections.abc import Sequence

from headrace.api import vocabulary as v
from headrace.reconcile.conditions import Condition, rendered
from headrace.reconcile.world import Manifest


def unfinished(manifest: Manifest, why: str, wall: float, types: Sequence[str]) -> Manifest:
    """Return the status of a resource whose reconcile passes fail.

    Ready stays as it is where it was observed for the present spec; a spec that was never carried out is not Ready.
    Without a condition Progressing, Ready reports the failure in any case.

    Args:
        manifest: the resource.
        why: how the last pass failed.
        wall: Unix time.
        types: the conditions of its kind.
    """
    before, generation = manifest.get("status", {}), manifest["metadata"].get("generation", 1)
    known = {condition["type"]: condition for condition in before.get("conditions", [])}
    message = f"the last reconcile passes failed, and the next one is tried soon: {why}"
    said = {}
    if v.PROGRESSING in types:
        said[v.PROGRESSING] = Condition(v.PROGRESSING, "Unknown", v.RECONCILE_FAILED, message)
    if known.get(v.READY, {}).get("observedGeneration") != generation:
        said[v.READY] = Condition(v.READY, "False", v.RECONCILE_FAILED, message)
    elif v.PROGRESSING not in types:
        said[v.READY] = Condition(v.READY, "Unknown", v.RECONCILE_FAILED, message)
    for type_ in types:
        if type_ not in known and type_ not in said:
            said[type_] = Condition(type_, "Unknown", v.PENDING, "not observed yet")
    new = {condition["type"]: condition for condition in rendered(said.values(), [*known.values()], generation, wall)}
    return {**before, "conditions": [new.get(type_) or known[type_] for type_ in types]}
