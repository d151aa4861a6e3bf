"""The status of an accepted resource: its seven conditions, and its figures.

WorkloadsReady and Progressing speak of the *wanted* revision. Ready is the summary: the newest spec is carried out, or
is being carried out, and requests are answered. One replica that takes requests is enough for True, of an old revision
too while the wanted one is rolled out; the message says what is in motion, and Progressing is False when it is over.
Ready is False with the cause when the cluster refuses a child or the wanted revision fails, although an old one serves
on.
"""

from __future__ import annotations

from headrace.api import vocabulary as v
from headrace.kinds.modeldeployment.decision import Decision
from headrace.kinds.modeldeployment.pods import Failure
from headrace.kinds.modeldeployment.rollout import Strategy
from headrace.kinds.modeldeployment.wake import Wake, cold_start_status
from headrace.reconcile.conditions import Condition, Status, clipped, counted, rendered
from headrace.reconcile.world import Manifest


def conditions(decision: Decision) -> list[Condition]:
    """Return all conditions, in the order of the vocabulary."""
    accepted = Condition(v.ACCEPTED, "True", v.VALID, "the spec is valid and its names are free")
    workloads, routable = _workloads_ready(decision), _routable(decision)
    ready = _ready(decision, workloads, routable)
    scaling, progressing = decision.wanted.condition, _progressing(decision)
    return [ready, accepted, decision.facts.source.condition, workloads, routable, scaling, progressing]


def status(decision: Decision, now: list[Condition], wake: Wake | None) -> Manifest:
    """Return the whole new status."""
    facts = decision.facts
    weights = {weight.revision: weight.weight_percent for weight in decision.rollout.weights}
    result: Manifest = {
        "observedGeneration": facts.resource.generation,
        "url": facts.settings.gateway_url,
        "publicName": facts.resource.public_name,
        "replicas": len(facts.pods),
        "readyReplicas": sum(pod.routable for pod in facts.pods),
        "specReplicas": facts.resource.spec.replicas,
        "capabilities": list(facts.resource.spec.runtime.profile.capabilities),
        "selector": f"{v.MODEL_LABEL}={facts.resource.name},{v.COMPONENT_LABEL}={v.COMPONENT_RUNTIME}",
        "revisions": [
            {
                "name": name,
                "weightPercent": weights.get(name, 0),
                "replicas": replicas,
                "readyReplicas": facts.routable(name),
                **({"failure": decision.taken_back} if decision.taken_back and name == facts.revision else {}),
            }
            for name, replicas in decision.rollout.replicas.items()
        ],
        "conditions": rendered(
            now,
            facts.before.get("conditions", []),
            facts.resource.generation,
            facts.signals.wall,
        ),
    }
    if facts.source.recorded is not None:
        result["source"] = facts.source.recorded
    if (failure := decision.start_failure) is not None:
        result["startFailure"] = {
            "observedGeneration": facts.resource.generation,
            "reason": failure.reason,
            "message": clipped(failure.message),
        }
    if decision.replaces_for_capacity:
        result["replacingForCapacity"] = True
    cold_start = cold_start_status(wake) or facts.before.get("lastColdStart")
    if cold_start is not None:
        result["lastColdStart"] = cold_start
    return result


def _workloads_ready(decision: Decision) -> Condition:
    """Whether the wanted number of runtime pods of the wanted revision run, and nothing of theirs is refused."""

    def said(status: Status, reason: str, message: str) -> Condition:
        return Condition(v.WORKLOADS_READY, status, reason, message)

    facts = decision.facts
    wanted, serving = decision.rollout.aim, facts.serving(facts.revision)
    if decision.wanted.off is not None:
        return said("False", decision.wanted.off.reason, decision.wanted.off.message)
    if (failure := decision.failure or facts.refusals.first) is not None:
        return said("False", failure.reason, failure.message)
    if decision.wanted.replicas == 0:
        return said("False", v.IDLE, "scaled to zero: there are no requests")
    if serving >= wanted:
        return said("True", v.RUNNING, f"{wanted} of {wanted} replicas run")
    if decision.rollout.replicas[facts.revision] == 0 and not facts.source.cached:
        return said("False", v.WAITING_FOR_MODEL, f"waiting for the model's file: {facts.source.condition.message}")
    return said("False", v.STARTING, f"{serving} of {wanted} replicas run{_stage(decision)}")


def _stage(decision: Decision) -> str:
    for pod in decision.facts.pods:
        if pod.revision != decision.facts.revision:
            continue
        if pod.fault:
            return f"; {pod.name}: {decision.facts.fault_of(pod)}"
        if pod.report is not None and not pod.serving and pod.report.stage:
            return f"; {pod.name}: {pod.report.stage}"  # no percent: each would be a write to the API server
        if pod.ended and not pod.serving:
            return f"; {pod.name}: is started again; it exited {pod.ended}"
    return ""


def _routable(decision: Decision) -> Condition:
    """Whether every live gateway routes to every pod that serves."""
    facts = decision.facts
    serving = sum(pod.serving for pod in facts.pods)
    routable = sum(pod.routable for pod in facts.pods)
    gateways = len(facts.signals.gateways)
    if serving == 0:
        return Condition(v.ROUTABLE, "False", v.NO_REPLICAS, "no replica is ready")
    if gateways == 0 and facts.signals.connected and facts.listening:
        return Condition(v.ROUTABLE, "False", v.NO_GATEWAY, "no gateway is connected")
    if gateways == 0 and not facts.signals.connected:
        message = "NATS is unreachable, and no gateway has reported yet: whether requests are answered is unknown"
        return Condition(v.ROUTABLE, "Unknown", v.SIGNALS_STALE, message)
    if routable < serving:
        faulty = (pod for pod in facts.pods if pod.serving and pod.fault)
        fault = next((f"; {pod.name}: {facts.fault_of(pod)}" for pod in faulty), "")
        message = f"{routable} of {serving} serving replicas are admitted by every gateway{fault}"
        return Condition(v.ROUTABLE, "False", v.WAITING_FOR_GATEWAYS, message)
    who = counted(gateways, "gateway") if gateways else "the gateways, which have not reported again yet"
    message = f"{counted(serving, 'replica')} admitted by {who}"
    return Condition(v.ROUTABLE, "True", v.ADMITTED, message)


def _progressing(decision: Decision) -> Condition:
    """Whether a rollout is in motion."""

    def said(status: Status, reason: str, message: str) -> Condition:
        return Condition(v.PROGRESSING, status, reason, message)

    facts = decision.facts
    new, old = facts.revision, decision.rollout.serving
    if facts.refusals.other is not None:
        return said("False", facts.refusals.other.reason, facts.refusals.other.message)
    if not decision.rollout.rolling:
        return said("False", v.STABLE, f"revision {new} is the only one")
    if not decision.taking_over:
        return said("True", v.ROLLING_OUT, f"revision {new} has all requests; the old revision is being removed")
    count = f"{facts.routable(new)} of {decision.rollout.aim} replicas"
    cause = decision.cause
    if cause is not None and not (decision.rollout.strategy is Strategy.REPLACE and cause.reason == v.UNSCHEDULABLE):
        return _stopped(decision, cause)
    match decision.rollout.strategy:
        case Strategy.CANARY if decision.rollout.share:
            how = "set spec.rollout.type: RollingUpdate to promote it, or apply the old spec to roll back"
            return said("True", v.CANARY, f"revision {new} has {decision.rollout.share}% of new requests: {how}")
        case Strategy.REPLACE | Strategy.RECREATE:
            reason, why = v.REPLACING, ""
            if decision.replaces_for_capacity:
                reason, why = v.NO_CAPACITY_FOR_SURGE, ": there is no room for both. Apply the old spec to roll back"
            return said(
                "True", reason, f"revision {old} is scaled down for revision {new}, which has {count} ready{why}"
            )
        case _:
            return said("True", v.ROLLING_OUT, f"revision {new} has {count} ready; revision {old} still serves")


def _stopped(decision: Decision, cause: Failure) -> Condition:
    """Say why the old revision serves on."""
    new, old = decision.facts.revision, decision.rollout.serving
    if decision.taken_back:
        message = f"revision {new} failed as a canary, and revision {old} has all requests until the spec changes"
        return Condition(v.PROGRESSING, "False", cause.reason, f"{message}: {cause.message}")
    if cause.reason == v.UNSCHEDULABLE:
        message = f"no room for revision {new} beside revision {old}, which still serves: {cause.message}"
        return Condition(v.PROGRESSING, "False", v.NO_CAPACITY_FOR_SURGE, message)
    message = f"revision {new} does not start, revision {old} still serves: {cause.message}"
    return Condition(v.PROGRESSING, "False", cause.reason, message)


def _ready(decision: Decision, workloads: Condition, routable: Condition) -> Condition:
    """Return the summary: requests are answered, or held and answered soon because the model is at zero."""

    def said(status: Status, reason: str, message: str) -> Condition:
        return Condition(v.READY, status, reason, message)

    if decision.wanted.off is not None:
        return said("False", decision.wanted.off.reason, decision.wanted.off.message)
    if (obstacle := _obstacle(decision)) is not None:
        return said("False", obstacle.reason, obstacle.message)
    if decision.wanted.replicas == 0:
        return _ready_at_zero(decision)
    if routable.reason in (v.NO_GATEWAY, v.SIGNALS_STALE):
        return said(routable.status, routable.reason, routable.message)
    taking = sum(decision.taking(weight.revision) for weight in decision.rollout.weights)
    changing = decision.taking_over and not decision.stays_canary
    unmet = next((condition for condition in (workloads, routable) if condition.status != "True"), None)
    if taking:
        motion = f"; revision {decision.facts.revision} is being rolled out" if changing else ""
        motion += f"; {unmet.message}" if unmet is not None else ""
        reason = v.ROLLING_OUT if changing else v.RUNNING
        return said("True", reason, f"requests go to {counted(taking, 'replica')}{motion}")
    if unmet is None:
        return said("False", v.ROLLING_OUT, f"no replica of revision {decision.rollout.serving} takes requests")
    if unmet.reason == v.WAITING_FOR_MODEL:
        unmet = decision.facts.source.condition  # the cause behind the cause
    return said(unmet.status, unmet.reason, unmet.message)


def _obstacle(decision: Decision) -> Condition | None:
    """Return what keeps the newest spec from being carried out, whoever takes requests; None: at most time."""
    serves_on = f"; revision {decision.rollout.serving} still serves" if decision.taking_over else ""
    if (refused := decision.facts.refusals.first) is not None and not refused.waiting:
        return Condition(v.READY, "False", refused.reason, f"{refused.message}{serves_on}")
    cause = decision.cause if decision.taking_over else None
    if cause is None or (decision.failure is not None and decision.failure.waiting):
        return None
    return Condition(v.READY, "False", cause.reason, f"revision {decision.facts.revision}: {cause.message}{serves_on}")


def _ready_at_zero(decision: Decision) -> Condition:
    """At zero a model is ready when a request can wake it: file and gateway are there, its last start did not fail."""
    facts = decision.facts
    source, signals = facts.source.condition, facts.signals
    if not facts.source.cached:
        return Condition(v.READY, source.status, source.reason, source.message)
    if (failure := decision.start_failure) is not None:
        message = f"scaled to zero; the last start failed, the next request tries again: {failure.message}"
        return Condition(v.READY, "False", failure.reason, message)
    if not signals.connected:
        return Condition(v.READY, "False", v.SIGNALS_STALE, "NATS is unreachable: requests cannot start the model")
    if not signals.gateways and not facts.listening:
        return _as_before(decision, "the gateways have not reported yet")
    if not signals.gateways:
        return Condition(v.READY, "False", v.NO_GATEWAY, "no gateway is connected that could start the model")
    return Condition(v.READY, "True", v.IDLE, "scaled to zero; the next request starts it")


def _as_before(decision: Decision, message: str) -> Condition:
    """Return that a model at zero is ready if it was, until the gateways had time to report; else Unknown."""
    before = next((each for each in decision.facts.before.get("conditions", []) if each["type"] == v.READY), None)
    if before is not None and before["status"] == "True":
        return Condition(v.READY, "True", v.IDLE, f"scaled to zero; {message}")
    return Condition(v.READY, "Unknown", v.PENDING, message)
