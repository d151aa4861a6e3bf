"""State of the model's source: the condition ModelCached, from the fetch Job and its pods."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime

from headrace.api import vocabulary as v
from headrace.errors import NoSpace
from headrace.kinds.modeldeployment.pods import last_termination, start_obstacle
from headrace.kinds.modeldeployment.refusals import refused_pods
from headrace.kinds.modeldeployment.spec import Source
from headrace.reconcile.conditions import Condition
from headrace.reconcile.ownership import controls
from headrace.reconcile.world import ChildKey, Manifest, Observed, Signals
from headrace.sources.location import redacted

_FETCH_REASONS = frozenset({v.SOURCE_UNREACHABLE, v.SOURCE_NOT_ALLOWED, v.DIGEST_MISMATCH, v.NO_SPACE, v.FETCH_FAILED})
"""Reasons that a fetch may report in its termination message."""
_FAILED = _FETCH_REASONS | {v.IMAGE_PULL_FAILED, v.REFUSED}
"""Reasons of a failed fetch. Unschedulable is not one, because capacity may become available."""

RECOVERED_SECONDS = 10.0
"""Runtime of a new attempt after which the previous failure is no longer reported."""

STEP_PERCENT = 25
"""Step of the progress in conditions, because each step is a write to the API server. Clients see finer steps."""


@dataclass(frozen=True, slots=True)
class SourceState:
    """The condition ModelCached, and the record of the file (`status.source`)."""

    condition: Condition
    recorded: Manifest | None
    has_pod: bool = False
    """Whether a fetch pod exists, whose changes enqueue the resource. Without one, passes are repeated."""
    reported: bool = False
    """Whether the condition is the fetch's own result, and not a failure of its Job or pod in the cluster."""

    @property
    def cached(self) -> bool:
        """Whether a runtime may be started on the file."""
        return self.condition.status == "True"

    @property
    def failed(self) -> bool:
        """Whether the fetch fails."""
        return self.condition.reason in _FAILED


NOTHING_TO_FETCH = SourceState(
    Condition(v.MODEL_CACHED, "True", v.NO_SOURCE, "there is nothing to fetch: the container has its own model"), None
)


def observe_source(
    source: Source, before: Manifest, job: ChildKey, observed: Observed, signals: Signals
) -> SourceState:
    """Return the state of a source; `before` is the present status."""
    recorded = recorded_source(source, before)
    uri = redacted(source.uri)
    manifest = observed.children.get(job)
    if manifest is None:
        if (refused := observed.refused.get(job)) is not None:
            message = f"the cluster refuses the Job {job.name}: {refused}"
            return SourceState(_condition("False", v.REFUSED, message), recorded)
        return SourceState(_condition("Unknown", v.PENDING, "the fetch has not started"), recorded)
    pod = _newest_pod(manifest, observed)
    report = _report(pod)
    if manifest.get("status", {}).get("succeeded"):
        return _fetched(source, uri, recorded, report)
    if report.get("reason") and not _recovers(pod, signals):
        return SourceState(_condition("False", report["reason"], report["message"]), recorded, reported=True)
    if pod is not None and (obstacle := start_obstacle(pod)) is not None:
        reason = v.FETCH_FAILED if obstacle.reason == v.CRASH_LOOP else obstacle.reason
        return SourceState(_condition("False", reason, f"the fetch cannot run: {obstacle.message}"), recorded)
    if pod is None and (failure := refused_pods(manifest, signals.wall)) is not None:
        reason = v.FETCHING if failure.waiting and failure.reason == v.REFUSED else failure.reason
        return SourceState(_condition("False", reason, f"the fetch cannot run: {failure.message}"), recorded)
    return SourceState(_condition("False", v.FETCHING, _progress(uri, signals)), recorded, has_pod=pod is not None)


def recorded_source(source: Source, before: Manifest) -> Manifest | None:
    """Return `status.source` if it describes the present source; None if the spec names another one."""
    recorded: Manifest | None = before.get("source")
    if recorded is None or recorded.get("uri") != redacted(source.uri):
        return None
    return recorded if source.digest in (None, recorded.get("digest")) else None


def _fetched(source: Source, uri: str, recorded: Manifest | None, report: Manifest) -> SourceState:
    if not report.keys() >= {"digest", "path", "bytes"}:
        # The finished pod was deleted: the Job shows that the file was verified, and the status has the record.
        return SourceState(_condition("True", v.CACHED, f"{uri} is cached"), recorded, reported=True)
    if (replaced := mismatch(source, recorded, report["digest"])) is not None:
        return SourceState(replaced, recorded, reported=True)
    found = {"uri": uri, "digest": report["digest"], "path": report["path"], "bytes": report["bytes"]}
    message = f"{uri} is cached and verified: {report['digest'][:19]}…"
    return SourceState(_condition("True", v.CACHED, message), found, reported=True)


def mismatch(source: Source, recorded: Manifest | None, digest: str) -> Condition | None:
    """Return the condition of a file whose digest differs from the recorded one, if the spec has no digest."""
    if recorded is None or source.digest is not None or recorded["digest"] == digest:
        return None
    message = (
        f"{redacted(source.uri)} now has {digest}, but {recorded['digest']} was recorded at the first fetch. "
        f"Restore the file, or accept the new one by setting its digest in {source.field}"
    )
    return _condition("False", v.DIGEST_MISMATCH, message)


def _newest_pod(job: Manifest, observed: Observed) -> Manifest | None:
    pods = (pod for pod in observed.pods if controls(job, pod))
    return max(pods, key=lambda pod: str(pod["metadata"].get("creationTimestamp")), default=None)


def _report(pod: Manifest | None) -> Manifest:
    """Return the termination message of the fetch: a result, a failure, or nothing."""
    ended = last_termination(pod) if pod is not None else None
    if ended is None:
        return {}
    try:
        report = json.loads(ended.get("message") or "")
    except ValueError:
        report = None
    if not isinstance(report, dict):
        report = {}
    if ended.get("exitCode") == 0:
        return report
    if report.get("reason") in _FETCH_REASONS:
        return {"reason": report["reason"], "message": str(report.get("message") or report["reason"])}
    if ended.get("exitCode") == NoSpace.exit_code:
        return {"reason": v.NO_SPACE, "message": "the disk is full: no space for the model's file. Free some space"}
    why = f"the fetch ended with exit code {ended.get('exitCode')} ({ended.get('reason') or 'Error'})"
    return {"reason": v.FETCH_FAILED, "message": f"{why}. See its log"}


def _recovers(pod: Manifest | None, signals: Signals) -> bool:
    """Whether a fetch that failed before has been running for some time and receives the file."""
    for container in (pod or {}).get("status", {}).get("containerStatuses", []):
        started = container.get("state", {}).get("running", {}).get("startedAt")
        if started and signals.wall - datetime.fromisoformat(started).timestamp() >= RECOVERED_SECONDS:
            return signals.fetch is not None and signals.fetch.received_bytes > 0
    return False


def _progress(uri: str, signals: Signals) -> str:
    progress = signals.fetch
    if progress is None or progress.uri != uri or progress.percent is None:
        return f"fetching {uri}"
    return f"fetching {uri}: {progress.percent // STEP_PERCENT * STEP_PERCENT}%"


def _condition(status: str, reason: str, message: str) -> Condition:
    assert status in ("True", "False", "Unknown")
    return Condition(v.MODEL_CACHED, status, reason, message)  # type: ignore[arg-type]  # narrowed just above
