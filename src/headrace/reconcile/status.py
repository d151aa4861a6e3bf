"""The status of an accepted resource: its seven conditions, and its figures.

WorkloadsReady and Progressing speak of the *wanted* revision. Ready is the summary: the newest spec is carried out, or
is being carried out, and requests are answered. One replica that takes requests is enough for True, of an old revision
too while the wanted one is rolled out; the message says what is in motion, and Progressing is False when it is over.
Ready is False with the cause when the cluster refuses a child or the wanted revision fails, although an old one serves
on.
"""

from __future__ import annotations

from headrace.api import vocabulary as v
from headrace.reconcile.conditions import Condition, Status, clipped, counted, rendered
from headrace.reconcile.findings import Findings
from headrace.reconcile.rollout import Way
from headrace.reconcile.wake import Wake, cold_start_status
from headrace.reconcile.world import Manifest, Settings


def conditions(found: Findings) -> list[Condition]:
    """Return all conditions, in the order of the vocabulary."""
    accepted = Condition(v.ACCEPTED, "True", v.VALID, "the spec is valid and its names are free")
    workloads, routable = _workloads_ready(found), _routable(found)
    ready = _ready(found, workloads, routable)
    scaling, progressing = found.wanted.condition, _progressing(found)
    return [ready, accepted, found.source.condition, workloads, routable, scaling, progressing]


def status(found: Findings, now: list[Condition], wake: Wake | None, settings: Settings) -> Manifest:
    """Return the whole new status."""
    weights = {weight.revision: weight.weight_percent for weight in found.rollout.weights}
    result: Manifest = {
        "observedGeneration": found.resource.generation,
        "url": settings.gateway_url,
        "publicName": found.resource.public_name,
        "replicas": len(found.pods),
        "readyReplicas": sum(pod.routable for pod in found.pods),
        "specReplicas": found.resource.spec.replicas,
        "capabilities": list(v.CONTRACT_CAPABILITIES if found.resource.spec.runtime.announces else ()),
        "selector": f"{v.MODEL_LABEL}={found.resource.name},{v.COMPONENT_LABEL}={v.COMPONENT_RUNTIME}",
        "revisions": [
            {
                "name": name,
                "weightPercent": weights.get(name, 0),
                "replicas": replicas,
                "readyReplicas": found.routable(name),
                **({"failure": found.taken_back} if found.taken_back and name == found.revision else {}),
            }
            for name, replicas in found.rollout.replicas.items()
        ],
        "conditions": rendered(now, found.before.get("conditions", []), found.resource.generation, found.signals.wall),
    }
    if found.source.recorded is not None:
        result["source"] = found.source.recorded
    if (failure := found.start_failure) is not None:
        result["startFailure"] = {
            "observedGeneration": found.resource.generation,
            "reason": failure.reason,
            "message": clipped(failure.message),
        }
    cold_start = cold_start_status(wake) or found.before.get("lastColdStart")
    if cold_start is not None:
        result["lastColdStart"] = cold_start
    return result


def _workloads_ready(found: Findings) -> Condition:
    """Whether the wanted number of runtime pods of the wanted revision run, and nothing of theirs is refused."""

    def said(status: Status, reason: str, message: str) -> Condition:
        return Condition(v.WORKLOADS_READY, status, reason, message)

    wanted, serving = found.rollout.aim, found.serving(found.revision)
    if found.wanted.off is not None:
        return said("False", found.wanted.off.reason, found.wanted.off.message)
    if (failure := found.failure or found.refused) is not None:
        return said("False", failure.reason, failure.message)
    if found.wanted.replicas == 0:
        return said("False", v.IDLE, "scaled to zero: there are no requests")
    if serving >= wanted:
        return said("True", v.RUNNING, f"{wanted} of {wanted} replicas run")
    if found.rollout.replicas[found.revision] == 0 and not found.source.cached:
        return said("False", v.WAITING_FOR_MODEL, f"waiting for the model's file: {found.source.condition.message}")
    return said("False", v.STARTING, f"{serving} of {wanted} replicas run{_stage(found)}")


def _stage(found: Findings) -> str:
    for pod in found.pods:
        if pod.revision != found.revision:
            continue
        if pod.fault:
            return f"; {pod.name}: {pod.fault}"
        if pod.report is not None and not pod.serving and pod.report.stage:
            return f"; {pod.name}: {pod.report.stage}"  # no percent: each would be a write to the API server
        if pod.ended and not pod.serving:
            return f"; {pod.name}: is started again; it exited {pod.ended}"
    return ""


def _routable(found: Findings) -> Condition:
    """Whether every live gateway routes to every pod that serves."""
    serving = sum(pod.serving for pod in found.pods)
    routable = sum(pod.routable for pod in found.pods)
    gateways = len(found.signals.gateways)
    if serving == 0:
        return Condition(v.ROUTABLE, "False", v.NO_REPLICAS, "no replica is ready")
    if gateways == 0 and found.signals.connected and found.listening:
        return Condition(v.ROUTABLE, "False", v.NO_GATEWAY, "no gateway is connected")
    if gateways == 0 and not found.signals.connected:
        message = "NATS is unreachable, and no gateway has reported yet: whether requests are answered is unknown"
        return Condition(v.ROUTABLE, "Unknown", v.SIGNALS_STALE, message)
    if routable < serving:
        fault = next((f"; {pod.name}: {pod.fault}" for pod in found.pods if pod.serving and pod.fault), "")
        message = f"{routable} of {serving} serving replicas are admitted by every gateway{fault}"
        return Condition(v.ROUTABLE, "False", v.WAITING_FOR_GATEWAYS, message)
    who = counted(gateways, "gateway") if gateways else "the gateways, which have not reported again yet"
    message = f"{counted(serving, 'replica')} admitted by {who}"
    return Condition(v.ROUTABLE, "True", v.ADMITTED, message)


def _progressing(found: Findings) -> Condition:
    """Whether a rollout is in motion."""

    def said(status: Status, reason: str, message: str) -> Condition:
        return Condition(v.PROGRESSING, status, reason, message)

    new, old = found.revision, found.rollout.serving
    if found.stuck is not None:
        return said("False", found.stuck.reason, found.stuck.message)
    if not found.rollout.rolling:
        return said("False", v.STABLE, f"revision {new} is the only one")
    if not found.taking_over:
        return said("True", v.ROLLING_OUT, f"revision {new} has all requests; the old revision is being removed")
    count = f"{found.routable(new)} of {found.rollout.aim} replicas"
    cause = _cause(found)
    if cause is not None and not (found.rollout.way is Way.REPLACE and cause.reason == v.UNSCHEDULABLE):
        return _stopped(found, cause)
    match found.rollout.way:
        case Way.CANARY if found.rollout.share:
            how = "set spec.rollout.type: RollingUpdate to promote it, or apply the old spec to roll back"
            return said("True", v.CANARY, f"revision {new} has {found.rollout.share}% of new requests: {how}")
        case Way.REPLACE | Way.RECREATE:
            reason, why = v.REPLACING, ""
            if found.makes_room:
                reason, why = v.NO_CAPACITY_FOR_SURGE, ": there is no room for both. Apply the old spec to roll back"
            return said(
                "True", reason, f"revision {old} is scaled down for revision {new}, which has {count} ready{why}"
            )
        case _:
            return said("True", v.ROLLING_OUT, f"revision {new} has {count} ready; revision {old} still serves")


def _stopped(found: Findings, cause: Condition) -> Condition:
    """Say why the old revision serves on."""
    new, old = found.revision, found.rollout.serving
    if found.taken_back:
        message = f"revision {new} failed as a canary, and revision {old} has all requests until the spec changes"
        return Condition(v.PROGRESSING, "False", cause.reason, f"{message}: {cause.message}")
    if cause.reason == v.UNSCHEDULABLE:
        message = f"no room for revision {new} beside revision {old}, which still serves: {cause.message}"
        return Condition(v.PROGRESSING, "False", v.NO_CAPACITY_FOR_SURGE, message)
    message = f"revision {new} does not start, revision {old} still serves: {cause.message}"
    return Condition(v.PROGRESSING, "False", cause.reason, message)


def _cause(found: Findings) -> Condition | None:
    """Return what keeps the wanted revision from starting, as a condition; None when it is only a matter of time."""
    if found.failure is not None:
        return Condition(v.WORKLOADS_READY, "False", found.failure.reason, found.failure.message)
    if found.taken_back:
        return Condition(v.WORKLOADS_READY, "False", found.taken_back, "it failed earlier, and runs again")
    return found.source.condition if found.source.failed else None


def _ready(found: Findings, workloads: Condition, routable: Condition) -> Condition:
    """Return the summary: requests are answered, or held and answered soon because the model is at zero."""

    def said(status: Status, reason: str, message: str) -> Condition:
        return Condition(v.READY, status, reason, message)

    if found.wanted.off is not None:
        return said("False", found.wanted.off.reason, found.wanted.off.message)
    if (obstacle := _obstacle(found)) is not None:
        return said("False", obstacle.reason, obstacle.message)
    if found.wanted.replicas == 0:
        return _ready_at_zero(found)
    if routable.reason in (v.NO_GATEWAY, v.SIGNALS_STALE):
        return said(routable.status, routable.reason, routable.message)
    taking = sum(found.taking(weight.revision) for weight in found.rollout.weights)
    changing = found.taking_over and not found.stays_canary
    unmet = next((condition for condition in (workloads, routable) if condition.status != "True"), None)
    if taking:
        motion = f"; revision {found.revision} is being rolled out" if changing else ""
        motion += f"; {unmet.message}" if unmet is not None else ""
        reason = v.ROLLING_OUT if changing else v.RUNNING
        return said("True", reason, f"requests go to {counted(taking, 'replica')}{motion}")
    if unmet is None:
        return said("False", v.ROLLING_OUT, f"no replica of revision {found.rollout.serving} takes requests")
    if unmet.reason == v.WAITING_FOR_MODEL:
        unmet = found.source.condition  # the cause behind the cause
    return said(unmet.status, unmet.reason, unmet.message)


def _obstacle(found: Findings) -> Condition | None:
    """Return what keeps the newest spec from being carried out, whoever takes requests; None: at most time."""
    serves_on = f"; revision {found.rollout.serving} still serves" if found.taking_over else ""
    if (refused := found.refused) is not None and not refused.waiting:
        return Condition(v.READY, "False", refused.reason, f"{refused.message}{serves_on}")
    cause = _cause(found) if found.taking_over else None
    if cause is None or (found.failure is not None and found.failure.waiting):
        return None
    return Condition(v.READY, "False", cause.reason, f"revision {found.revision}: {cause.message}{serves_on}")


def _ready_at_zero(found: Findings) -> Condition:
    """At zero a model is ready when a request can wake it: file and gateway are there, its last start did not fail."""
    source, signals = found.source.condition, found.signals
    if not found.source.cached:
        return Condition(v.READY, source.status, source.reason, source.message)
    if (failure := found.start_failure) is not None:
        message = f"scaled to zero; the last start failed, the next request tries again: {failure.message}"
        return Condition(v.READY, "False", failure.reason, message)
    if not signals.connected:
        return Condition(v.READY, "False", v.SIGNALS_STALE, "NATS is unreachable: requests cannot start the model")
    if not signals.gateways and not found.listening:
        return _as_before(found, "the gateways have not reported yet")
    if not signals.gateways:
        return Condition(v.READY, "False", v.NO_GATEWAY, "no gateway is connected that could start the model")
    return Condition(v.READY, "True", v.IDLE, "scaled to zero; the next request starts it")


def _as_before(found: Findings, message: str) -> Condition:
    """Return that a model at zero is ready if it was, while nobody had the time to speak: else it is Unknown."""
    before = next((each for each in found.before.get("conditions", []) if each["type"] == v.READY), None)
    if before is not None and before["status"] == "True":
        return Condition(v.READY, "True", v.IDLE, f"scaled to zero; {message}")
    return Condition(v.READY, "Unknown", v.PENDING, message)
