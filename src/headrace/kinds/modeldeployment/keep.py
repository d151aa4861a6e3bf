"""What outlives the replicas of a model, as far as the world has it."""

from __future__ import annotations

from headrace import environment
from headrace.api.vocabulary import KEEP_NOTHING, KEEP_PROCESS, KEEP_WEIGHTS
from headrace.kinds.modeldeployment.spec import Keep, Spec
from headrace.kinds.node_agent import mount_node_agent
from headrace.reconcile.world import Manifest, Settings
from headrace.runtimes.profile import GPU


def kept(spec: Spec, settings: Settings) -> Keep:
    """Return what is kept: less than the spec asks for, if the world or the runtime does not have it."""
    wanted: Keep = KEEP_NOTHING if spec.scaling is None else spec.scaling.cold_start.keep
    if wanted == KEEP_PROCESS and spec.runtime.profile.standby:
        resources = spec.template.resources
        takes_gpu = GPU in resources.requests.keys() | resources.limits.keys()  # which a waiting pod would occupy
        if settings.warm_processes or (settings.standby_pods and not takes_gpu):
            return KEEP_PROCESS
    return KEEP_NOTHING if wanted == KEEP_NOTHING or not settings.node_agent else KEEP_WEIGHTS


def keeping(pod: Manifest, spec: Spec, settings: Settings) -> Manifest:
    """Return the spec of a runtime pod with all that it needs to find what is kept."""
    keep = kept(spec, settings)
    if keep == KEEP_PROCESS:
        (container,) = pod["containers"]
        mark = {"name": environment.KEEP, "value": KEEP_PROCESS}
        pod = {**pod, "containers": [{**container, "env": [*container["env"], mark]}]}
    return mount_node_agent(pod) if settings.node_agent and keep != KEEP_NOTHING else pod
