"""The state of a source without a fetch Job of its own: from the status, or from another model with the same source.

A finished Job is removed after a while, so its result stays in the status: `status.source` names the file, and the
condition ModelCached records that it was verified. A replica that keeps crashing puts that in doubt (the claim may have
been made anew), and a Job verifies the file again. Of the models of one source in a namespace one fetches; the others
take over what its status says.
"""

from __future__ import annotations

from headrace.api import vocabulary as v
from headrace.kinds.modeldeployment.source import SourceState, mismatch, recorded_source
from headrace.kinds.modeldeployment.spec import Source
from headrace.reconcile.conditions import Condition
from headrace.reconcile.world import Manifest, Signals
from headrace.sources.location import location, redacted


def known_source(source: Source, before: Manifest) -> SourceState | None:
    """Return the state of a source whose file was verified before; None when it was not, or is in doubt."""
    in_doubt = _condition(before, v.WORKLOADS_READY).get("reason") == v.CRASH_LOOP
    return None if in_doubt or not was_verified(source, before) else _as_it_was(source, before)


def verified_condition(source: Source, before: Manifest) -> Condition | None:
    """Return the condition of a source whose file was verified before, in doubt or not; None when it was not."""
    return _as_it_was(source, before).condition if was_verified(source, before) else None


def was_verified(source: Source, before: Manifest) -> bool:
    """Whether the source's file was verified before, in doubt or not."""
    return _verified(source, before) is not None


def while_verified_again(state: SourceState, source: Source, before: Manifest, signals: Signals) -> SourceState:
    """Return the state while a Job verifies a file that was verified before.

    It stays as it was until the fetch downloads the file anew or reports its end. That the Job or its pod is refused,
    or cannot run, is no evidence about the file.
    """
    progress = signals.fetch
    downloads = progress is not None and progress.received_bytes < (progress.total_bytes or 0)
    if state.reported or (state.has_pod and downloads) or not was_verified(source, before):
        return state
    return _as_it_was(source, before)


def fetched_by(fetcher: Manifest, source: Source, before: Manifest) -> SourceState | None:
    """Return the state of a source that another ModelDeployment of the namespace fetches.

    None when that one has fetched it without a record in its status, and so cannot vouch for it to others.
    """
    metadata, status = fetcher["metadata"], fetcher.get("status", {})
    name, theirs, uri = metadata["name"], _condition(status, v.MODEL_CACHED), redacted(source.uri)
    found = _verified(source, status)
    if found is not None:
        recorded = recorded_source(source, before)
        if (replaced := mismatch(source, recorded, found["digest"])) is not None:
            return SourceState(replaced, recorded)
        message = f"{uri} is cached and verified: {found['digest'][:19]}…, fetched for the ModelDeployment {name}"
        return SourceState(Condition(v.MODEL_CACHED, "True", v.CACHED, message), found)
    if theirs.get("status") == "True" and theirs.get("observedGeneration") == metadata.get("generation", 1):
        return None
    recorded = recorded_source(source, before)
    if theirs.get("status") != "False" or theirs["reason"] == v.FETCHING:
        message = f"fetching {uri}, for the ModelDeployment {name} too"
        return SourceState(Condition(v.MODEL_CACHED, "False", v.FETCHING, message), recorded)
    message = f"{theirs['message']} (fetched for the ModelDeployment {name} too)"
    return SourceState(Condition(v.MODEL_CACHED, "False", theirs["reason"], message), recorded)


def _as_it_was(source: Source, before: Manifest) -> SourceState:
    message = _condition(before, v.MODEL_CACHED)["message"]
    return SourceState(Condition(v.MODEL_CACHED, "True", v.CACHED, message), _verified(source, before))


def _verified(source: Source, status: Manifest) -> Manifest | None:
    """Return what a status records of exactly this source, if its file was there and verified."""
    recorded = recorded_source(source, status)
    if recorded is None or recorded.get("path") != location(source.uri, source.digest):
        return None  # a URI may differ in what is not shown of it
    return recorded if _condition(status, v.MODEL_CACHED).get("status") == "True" else None


def _condition(status: Manifest, type_: str) -> Manifest:
    found = (condition for condition in status.get("conditions", []) if condition["type"] == type_)
    return next(found, {})
