"""The revision: a hash of everything that a resource's runtime pods are made of.

It is taken of the pod's spec itself, so nothing can be forgotten: source, runtime, template, names, drain time, and
the image, so that a new release of headrace is rolled out like any other change. Replicas, scaling, suspension and
deadlines are not in a pod, so changing them restarts nothing. Applying an old spec again gives the old hash: a rollback
is an ordinary rollout.
"""

from __future__ import annotations

from dataclasses import replace

from headrace.kinds.modeldeployment.manifests.common import short_hash
from headrace.kinds.modeldeployment.manifests.deployment import pod_spec, without_later_fields
from headrace.kinds.modeldeployment.resource import ModelDeployment
from headrace.reconcile.world import Settings


def revision_of(resource: ModelDeployment, settings: Settings) -> str:
    """Return the revision's name, eight hexadecimal digits.

    Where NATS listens is left out: in local mode it changes with each start, and then no old pod is alive. So are the
    fields that an upgrade of headrace gives to new revisions only: it must not restart what runs.
    """
    return short_hash(without_later_fields(pod_spec(resource, "", replace(settings, nats_url=""))))
