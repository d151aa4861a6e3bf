"""The revision: a hash of everything about a resource that its pods depend on.

Replicas, scaling, suspension and deadlines are not in it: changing them restarts nothing. Applying an old spec again
gives the old hash, so a rollback is an ordinary rollout.
"""

from __future__ import annotations

import hashlib
import json

from headrace.api.validation import ModelDeployment

HASH_LENGTH = 8


def revision_of(resource: ModelDeployment) -> str:
    """Return the revision's name: eight hexadecimal digits that start with a letter when joined to a name."""
    spec = resource.spec
    affecting = {
        "publicName": resource.public_name,
        "source": {"uri": spec.model.source.uri, "digest": spec.model.source.digest},
        "runtime": spec.runtime.model_dump(mode="json", by_alias=True),
        "template": spec.template.model_dump(mode="json", by_alias=True),
        "drainTimeoutSeconds": spec.rollout.drain_timeout_seconds,
    }
    canonical = json.dumps(affecting, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:HASH_LENGTH]


def source_hash(resource: ModelDeployment) -> str:
    """Return the hash that names the fetch child of the resource's source."""
    source = resource.spec.model.source
    return hashlib.sha256(f"{source.uri}\n{source.digest or ''}".encode()).hexdigest()[:HASH_LENGTH]
