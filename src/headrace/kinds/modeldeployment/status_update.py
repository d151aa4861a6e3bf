"""Status of an accepted resource: its seven conditions, and its fields.

WorkloadsReady and Progressing describe the *desired* revision. Ready is the summary: the newest spec is applied or
being applied, and the model serves requests. One replica that receives requests is enough for True, also a stable one
during a rollout; the message names the change in progress. Ready is False with the cause if the cluster refuses a child
or the desired revision fails, even while the stable revision serves.
"""

from __future__ import annotations

from headrace.api import vocabulary as v
from headrace.kinds.modeldeployment.decision import Decision
from headrace.kinds.modeldeployment.keep import kept
from headrace.kinds.modeldeployment.kept_on import kept_on
from headrace.kinds.modeldeployment.pods import Failure
from headrace.kinds.modeldeployment.rollout import Strategy
from headrace.kinds.modeldeployment.wake import Wake, cold_start_status
from headrace.reconcile.conditions import Condition, Status, clipped, counted, rendered
from headrace.reconcile.world import Manifest


def conditions(decision: Decision) -> list[Condition]:
    """Return all conditions, in the order of the vocabulary."""
    accepted = Condition(v.ACCEPTED, "True", v.VALID, "the spec is valid and its public name is available")
    workloads, routable = _workloads_ready(decision), _routable(decision)
    ready = _ready(decision, workloads, routable)
    scaling, progressing = decision.desired.condition, _progressing(decision)
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
                **(
                    {"failure": decision.rollback_reason} if decision.rollback_reason and name == facts.revision else {}
                ),
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
    if facts.adapters:
        result["adapters"] = [each.status for each in facts.adapters]
    if (failure := decision.start_failure) is not None:
        result["startFailure"] = {
            "observedGeneration": facts.resource.generation,
            "reason": failure.reason,
            "message": clipped(failure.message),
        }
    scaling = facts.resource.spec.scaling
    if scaling is not None and scaling.cold_start.keep != v.KEEP_NOTHING:
        result["keep"] = kept(facts.resource.spec, facts.settings)
    if nodes := kept_on(facts):
        result["keptOn"] = nodes
    if decision.replaces_for_capacity:
        result["replacingForCapacity"] = True
    cold_start = cold_start_status(wake) or facts.before.get("lastColdStart")
    if cold_start is not None:
        result["lastColdStart"] = cold_start
    return result


def _workloads_ready(decision: Decision) -> Condition:
    """Return WorkloadsReady: whether the desired replicas of the desired revision are ready and none is refused."""

    def condition(status: Status, reason: str, message: str) -> Condition:
        return Condition(v.WORKLOADS_READY, status, reason, message)

    facts = decision.facts
    desired, serving = decision.rollout.aim, facts.serving(facts.revision)
    if decision.desired.rejection is not None:
        return condition("False", decision.desired.rejection.reason, decision.desired.rejection.message)
    if (failure := decision.failure or facts.refusals.first) is not None:
        return condition("False", failure.reason, failure.message)
    if decision.desired.replicas == 0:
        return condition("False", v.IDLE, "scaled to zero: there are no requests")
    if serving >= desired:
        return condition("True", v.RUNNING, f"{desired} of {desired} replicas run")
    if decision.rollout.replicas[facts.revision] == 0 and not facts.files.cached:
        return condition("False", v.WAITING_FOR_MODEL, f"waiting for the model's file: {facts.files.condition.message}")
    return condition("False", v.STARTING, f"{serving} of {desired} replicas run{_stage(decision)}")


def _stage(decision: Decision) -> str:
    for pod in decision.facts.pods:
        if pod.revision != decision.facts.revision:
            continue
        if pod.fault:
            return f"; {pod.name}: {decision.facts.fault_of(pod)}"
        if pod.report is not None and not pod.serving and pod.report.stage:
            return f"; {pod.name}: {pod.report.stage}"  # no percentage: each would be a status write
        if pod.last_exit and not pod.serving:
            return f"; {pod.name}: is being restarted; it exited {pod.last_exit}"
    return ""


def _routable(decision: Decision) -> Condition:
    """Return Routable: whether every live gateway routes to every serving pod."""
    facts = decision.facts
    serving = sum(pod.serving for pod in facts.pods)
    routable = sum(pod.routable for pod in facts.pods)
    gateways = len(facts.signals.gateways)
    if serving == 0:
        return Condition(v.ROUTABLE, "False", v.NO_REPLICAS, "no replica is ready")
    if gateways == 0 and facts.signals.connected and facts.listening:
        return Condition(v.ROUTABLE, "False", v.NO_GATEWAY, "no gateway is connected")
    if gateways == 0 and not facts.signals.connected:
        message = "NATS is unreachable, and no gateway has reported yet: whether the model serves requests is unknown"
        return Condition(v.ROUTABLE, "Unknown", v.SIGNALS_STALE, message)
    if routable < serving:
        faulty = (pod for pod in facts.pods if pod.serving and pod.fault)
        fault = next((f"; {pod.name}: {facts.fault_of(pod)}" for pod in faulty), "")
        message = f"{routable} of {serving} serving replicas are admitted by every gateway{fault}"
        return Condition(v.ROUTABLE, "False", v.WAITING_FOR_GATEWAYS, message)
    admitters = counted(gateways, "gateway") if gateways else "the gateways, according to their previous reports"
    message = f"{counted(serving, 'replica')} admitted by {admitters}"
    return Condition(v.ROUTABLE, "True", v.ADMITTED, message)


def _progressing(decision: Decision) -> Condition:
    """Return Progressing: whether a rollout is in progress."""

    def condition(status: Status, reason: str, message: str) -> Condition:
        return Condition(v.PROGRESSING, status, reason, message)

    facts = decision.facts
    candidate, stable = facts.revision, decision.rollout.serving
    if facts.refusals.other is not None:
        return condition("False", facts.refusals.other.reason, facts.refusals.other.message)
    if not decision.rollout.rolling:
        return condition("False", v.STABLE, f"revision {candidate} is the only one")
    if not decision.stable_serves:
        return condition(
            "True", v.ROLLING_OUT, f"revision {candidate} has all requests; the stable revision is being removed"
        )
    count = f"{facts.routable(candidate)} of {decision.rollout.aim} replicas"
    cause = decision.cause
    if cause is not None and not (decision.rollout.strategy is Strategy.REPLACE and cause.reason == v.UNSCHEDULABLE):
        return _stopped(decision, cause)
    match decision.rollout.strategy:
        case Strategy.CANARY if decision.rollout.share:
            how = "set spec.rollout.type: RollingUpdate to promote it, or apply the previous spec to roll back"
            return condition(
                "True", v.CANARY, f"revision {candidate} has {decision.rollout.share}% of new requests: {how}"
            )
        case Strategy.REPLACE | Strategy.RECREATE:
            reason, why = v.REPLACING, ""
            if decision.replaces_for_capacity:
                reason, why = (
                    v.NO_CAPACITY_FOR_SURGE,
                    ": there is no capacity for both. Apply the previous spec to roll back",
                )
            return condition(
                "True",
                reason,
                f"revision {stable} is scaled down for revision {candidate}, which has {count} ready{why}",
            )
        case _:
            return condition(
                "True", v.ROLLING_OUT, f"revision {candidate} has {count} ready; revision {stable} still serves"
            )


def _stopped(decision: Decision, cause: Failure) -> Condition:
    """Return the condition of a rollout that cannot proceed."""
    candidate, stable = decision.facts.revision, decision.rollout.serving
    if decision.rollback_reason:
        message = (
            f"revision {candidate} failed as a canary, and revision {stable} has all requests until the spec changes"
        )
        return Condition(v.PROGRESSING, "False", cause.reason, f"{message}: {cause.message}")
    if cause.reason == v.UNSCHEDULABLE:
        message = f"no capacity for revision {candidate} beside revision {stable}, which still serves: {cause.message}"
        return Condition(v.PROGRESSING, "False", v.NO_CAPACITY_FOR_SURGE, message)
    message = f"revision {candidate} does not start, revision {stable} still serves: {cause.message}"
    return Condition(v.PROGRESSING, "False", cause.reason, message)


def _ready(decision: Decision, workloads: Condition, routable: Condition) -> Condition:
    """Return Ready, the summary: requests are served, or start the model from zero."""

    def condition(status: Status, reason: str, message: str) -> Condition:
        return Condition(v.READY, status, reason, message)

    if decision.desired.rejection is not None:
        return condition("False", decision.desired.rejection.reason, decision.desired.rejection.message)
    if (obstacle := _obstacle(decision)) is not None:
        return condition("False", obstacle.reason, obstacle.message)
    if decision.desired.replicas == 0:
        return _ready_at_zero(decision)
    if routable.reason in (v.NO_GATEWAY, v.SIGNALS_STALE):
        return condition(routable.status, routable.reason, routable.message)
    receiving = sum(decision.receiving(weight.revision) for weight in decision.rollout.weights)
    changing = decision.stable_serves and not decision.canary_in_place
    unmet = next((each for each in (workloads, routable) if each.status != "True"), None)
    if receiving:
        change = f"; revision {decision.facts.revision} is being rolled out" if changing else ""
        change += f"; {unmet.message}" if unmet is not None else ""
        reason = v.ROLLING_OUT if changing else v.RUNNING
        return condition("True", reason, f"requests go to {counted(receiving, 'replica')}{change}")
    if unmet is None:
        return condition("False", v.ROLLING_OUT, f"no replica of revision {decision.rollout.serving} receives requests")
    if unmet.reason == v.WAITING_FOR_MODEL:
        unmet = decision.facts.files.condition  # the more specific cause
    return condition(unmet.status, unmet.reason, unmet.message)


def _obstacle(decision: Decision) -> Condition | None:
    """Return why the newest spec cannot be applied; None if it is applied or being applied."""
    stable_serves = f"; revision {decision.rollout.serving} still serves" if decision.stable_serves else ""
    if (refused := decision.facts.refusals.first) is not None and not refused.waiting:
        return Condition(v.READY, "False", refused.reason, f"{refused.message}{stable_serves}")
    cause = decision.cause if decision.stable_serves else None
    if cause is None or (decision.failure is not None and decision.failure.waiting):
        return None
    return Condition(
        v.READY, "False", cause.reason, f"revision {decision.facts.revision}: {cause.message}{stable_serves}"
    )


def _ready_at_zero(decision: Decision) -> Condition:
    """Return Ready of a model at zero: True if a request can start it (file, gateway, no failed last start)."""
    facts = decision.facts
    files, signals = facts.files, facts.signals
    if not files.cached:
        return Condition(v.READY, files.condition.status, files.condition.reason, files.condition.message)
    if (failure := decision.start_failure) is not None:
        message = f"scaled to zero; the last start failed, and the next request starts it again: {failure.message}"
        return Condition(v.READY, "False", failure.reason, message)
    if not signals.connected:
        return Condition(v.READY, "False", v.SIGNALS_STALE, "NATS is unreachable: requests cannot start the model")
    if not signals.gateways and not facts.listening:
        return _as_before(decision, "the gateways have not reported yet")
    if not signals.gateways:
        return Condition(v.READY, "False", v.NO_GATEWAY, "no gateway is connected: requests cannot start the model")
    return Condition(v.READY, "True", v.IDLE, "scaled to zero; the next request starts it")


def _as_before(decision: Decision, message: str) -> Condition:
    """Return Ready of a model at zero until the gateways had time to report: True if it was, else Unknown."""
    before = next((each for each in decision.facts.before.get("conditions", []) if each["type"] == v.READY), None)
    if before is not None and before["status"] == "True":
        return Condition(v.READY, "True", v.IDLE, f"scaled to zero; {message}")
    return Condition(v.READY, "Unknown", v.PENDING, message)
