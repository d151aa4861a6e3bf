"""The state of a source without a fetch Job of its own: from the status, or from another model with the same source.

Kubernetes removes a finished Job, so its result is stored in the status: `status.source` names the file, and the
condition ModelCached records that it was verified. After repeated crashes of a replica a Job verifies the file again,
because the claim may have been recreated. Of the models with one source in a namespace, one fetches, and the others
copy the result from its status.
"""

from __future__ import annotations

from headrace.api import vocabulary as v
from headrace.kinds.modeldeployment.source import SourceState, mismatch, recorded_source
from headrace.kinds.modeldeployment.spec import Source
from headrace.reconcile.conditions import Condition
from headrace.reconcile.world import Manifest, Signals
from headrace.sources.location import location, redacted


def known_source(source: Source, before: Manifest) -> SourceState | None:
    """Return the state of a source whose file was verified before; None if it was not, or must be verified again."""
    unverified = _condition(before, v.WORKLOADS_READY).get("reason") == v.CRASH_LOOP
    return None if unverified or not was_verified(source, before) else _recorded_state(source, before)


def verified_condition(source: Source, before: Manifest) -> Condition | None:
    """Return the condition of a source that `was_verified`, else None."""
    return _recorded_state(source, before).condition if was_verified(source, before) else None


def was_verified(source: Source, before: Manifest) -> bool:
    """Whether the source's file was verified before, even if it must be verified again."""
    return _verified(source, before) is not None


def while_verified_again(state: SourceState, source: Source, before: Manifest, signals: Signals) -> SourceState:
    """Return the state while a Job verifies a file that was verified before.

    The previous state is kept until the fetch downloads the file again or reports a result. A refused or unschedulable
    Job shows nothing about the file.
    """
    progress = signals.fetch
    downloads = progress is not None and progress.received_bytes < (progress.total_bytes or 0)
    if state.reported or (state.has_pod and downloads) or not was_verified(source, before):
        return state
    return _recorded_state(source, before)


def fetched_by(fetcher: Manifest, source: Source, before: Manifest) -> SourceState | None:
    """Return the state of a source that another ModelDeployment of the namespace fetches.

    None if it has fetched the file without recording it in its status, so that the result cannot be copied.
    """
    metadata, status = fetcher["metadata"], fetcher.get("status", {})
    name, other, uri = metadata["name"], _condition(status, v.MODEL_CACHED), redacted(source.uri)
    found = _verified(source, status)
    if found is not None:
        recorded = recorded_source(source, before)
        if (replaced := mismatch(source, recorded, found["digest"])) is not None:
            return SourceState(replaced, recorded)
        message = f"{uri} is cached and verified: {found['digest'][:19]}…, fetched by the ModelDeployment {name}"
        return SourceState(Condition(v.MODEL_CACHED, "True", v.CACHED, message), found)
    if other.get("status") == "True" and other.get("observedGeneration") == metadata.get("generation", 1):
        return None
    recorded = recorded_source(source, before)
    if other.get("status") != "False" or other["reason"] == v.FETCHING:
        message = f"the ModelDeployment {name} is fetching {uri}"
        return SourceState(Condition(v.MODEL_CACHED, "False", v.FETCHING, message), recorded)
    message = f"{other['message']} (fetched by the ModelDeployment {name})"
    return SourceState(Condition(v.MODEL_CACHED, "False", other["reason"], message), recorded)


def _recorded_state(source: Source, before: Manifest) -> SourceState:
    message = _condition(before, v.MODEL_CACHED)["message"]
    return SourceState(Condition(v.MODEL_CACHED, "True", v.CACHED, message), _verified(source, before))


def _verified(source: Source, status: Manifest) -> Manifest | None:
    """Return the record of exactly this source in a status, if its file was verified."""
    recorded = recorded_source(source, status)
    if recorded is None or recorded.get("path") != location(source.uri, source.digest):
        return None  # the redacted parts of two URIs may differ
    return recorded if _condition(status, v.MODEL_CACHED).get("status") == "True" else None


def _condition(status: Manifest, type_: str) -> Manifest:
    found = (condition for condition in status.get("conditions", []) if condition["type"] == type_)
    return next(found, {})
