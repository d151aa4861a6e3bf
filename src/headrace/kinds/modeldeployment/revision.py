"""Revision hash of a resource's runtime pods.

It is the hash of the pod spec, so it covers source, runtime, template, names, drain timeout and image; a new release of
headrace is rolled out like any other change. Replicas, scaling, suspension and deadlines are not in the pod spec, so a
change of them restarts no pod. Applying an earlier spec again yields the earlier hash: a rollback is a normal rollout.
"""

from __future__ import annotations

from dataclasses import replace

from headrace.kinds.modeldeployment.manifests.common import short_hash
from headrace.kinds.modeldeployment.manifests.deployment import pod_spec, without_later_fields
from headrace.kinds.modeldeployment.resource import ModelDeployment
from headrace.reconcile.world import Settings


def revision_of(resource: ModelDeployment, settings: Settings) -> str:
    """Return the revision's name, eight hexadecimal digits.

    The address of NATS is not part of it: in local mode it changes with each start, which stops all pods. Neither are
    fields that newer releases of headrace add, because an upgrade alone must not restart pods.
    """
    return short_hash(without_later_fields(pod_spec(resource, "", replace(settings, nats_url=""))))
