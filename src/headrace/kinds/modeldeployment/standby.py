"""Standby pods in a pass: which starting replicas they replace, and which of them wait for their launch."""

from __future__ import annotations

from headrace.api import vocabulary as v
from headrace.events.messages import Launch
from headrace.kinds.modeldeployment.facts import Facts
from headrace.kinds.modeldeployment.keep import kept
from headrace.kinds.modeldeployment.kept_on import kept_on
from headrace.kinds.modeldeployment.manifests.standby import launch_of, program_of, standby_deployment, standby_spec
from headrace.kinds.modeldeployment.peers import peers_of
from headrace.kinds.modeldeployment.pods import component_of
from headrace.reconcile.world import Child, Conversion, Manifest, ResourceKey


def pool(facts: Facts) -> tuple[Child, ...]:
    """Return the pool of standby pods, if this resource has it for all that share it."""
    owner = _pool_owner(facts)
    if owner is None or owner != ResourceKey.of(facts.manifest):
        return ()
    return (standby_deployment(facts.resource, facts.settings),)


def conversions(facts: Facts) -> tuple[Conversion, ...]:
    """Return the starting replicas of the desired revision for which no standby pod was tried yet."""
    owner, present = _pool_owner(facts), facts.deployments.get(facts.revision)
    if owner is None or present is None:
        return ()
    starting = [pod for pod in starting_replicas(facts, facts.revision) if pod not in facts.memory.converted]
    if not starting:
        return ()
    program, launch = program_of(standby_spec(facts.resource, facts.settings)), launch_of(present)
    nodes = tuple(each["node"] for each in kept_on(facts))
    return tuple(Conversion(pod, owner, program, launch, nodes) for pod in starting)


def starting_replicas(facts: Facts, revision: str) -> list[str]:
    """Return the replicas of a revision whose container does not run, and never did."""
    return [
        pod["metadata"]["name"]
        for pod in facts.observed.pods
        if _is_replica(pod) and pod["metadata"]["labels"].get(v.REVISION_LABEL) == revision
        if v.STANDBY_LABEL not in pod["metadata"]["labels"] and pod.get("status", {}).get("phase") == "Pending"
    ]


def launches(facts: Facts) -> dict[str, Launch]:
    """Return the launches of former standby pods that do not report: they wait for it, or were restarted."""
    reporting = {pod.name for pod in facts.pods if pod.report is not None}
    return {
        pod["metadata"]["name"]: launch_of(facts.deployments[revision])
        for pod in facts.observed.pods
        if _is_replica(pod) and v.STANDBY_LABEL in pod["metadata"]["labels"]
        if (revision := pod["metadata"]["labels"].get(v.REVISION_LABEL)) in facts.deployments
        and pod["metadata"]["name"] not in reporting
    }


def _pool_owner(facts: Facts) -> ResourceKey | None:
    keeps = kept(facts.resource.spec, facts.settings) == v.KEEP_PROCESS and facts.settings.standby_pods
    return peers_of(facts.observed).pool if keeps else None


def _is_replica(pod: Manifest) -> bool:
    return component_of(pod) == v.COMPONENT_RUNTIME and not pod["metadata"].get("deletionTimestamp")
