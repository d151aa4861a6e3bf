"""The cause of a Job without a pod, which its controller reports in events only.

A Deployment whose pods the API server refuses (a quota, a policy, a webhook) has a condition for that; a Job has none.
Events are not watched, because a cluster has very many. The events of a Job that has no pod after some seconds are
read, periodically while it has none; the newest refusal is added to its conditions in the shape of a Deployment's
condition (`headrace.reconcile.conditions.FAILED_CREATE`).
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

from headrace.reconcile.conditions import FAILED_CREATE
from headrace.reconcile.world import Manifest
from headrace_operator.client import ApiError, ApiServer
from headrace_operator.kinds import EVENT

log = logging.getLogger(__name__)

WAIT_SECONDS = 4.0
"""A Job's controller creates its pod within a second; after this time without a pod its events are read."""
REREAD_SECONDS = 10.0
_SAYS = "Error creating: "
"""Prefix of the API server's message in the event."""
_TYPE, _STATUS, _REASON = FAILED_CREATE


@dataclass(slots=True)
class _Podless:
    """A Job without a pod."""

    due: float
    """Monotonic time at which its events are read next."""
    condition: Manifest | None = None


class JobEvents:
    """Keeps the cause for each Job without a pod. `clock` is monotonic."""

    def __init__(self, api: ApiServer, clock: Callable[[], float]) -> None:
        self._api = api
        self._clock = clock
        self._podless: dict[str, _Podless] = {}
        """By uid."""

    def explained(self, job: Manifest) -> Manifest:
        """Return the Job with the condition of its missing pod, if there is one."""
        known = self._podless.get(job["metadata"]["uid"])
        if known is None or known.condition is None:
            return job
        status = job.get("status") or {}
        return {**job, "status": {**status, "conditions": [*(status.get("conditions") or []), known.condition]}}

    def forget(self, uid: str) -> None:
        """Drop a Job that was deleted."""
        self._podless.pop(uid, None)

    async def refresh(self, job: Manifest, *, has_pod: bool) -> bool:
        """Read the events of a Job that has had no pod for a while; return whether its cause has changed."""
        metadata = job["metadata"]
        if has_pod or (job.get("status") or {}).get("succeeded"):
            known = self._podless.pop(metadata["uid"], None)
            return known is not None and known.condition is not None
        now = self._clock()
        known = self._podless.setdefault(metadata["uid"], _Podless(due=now + WAIT_SECONDS))
        if now < known.due:
            return False
        known.due = now + REREAD_SECONDS
        before = known.condition
        try:
            known.condition = await self._read(job) or before
        except ApiError as error:
            log.warning(
                "the events of the Job %s/%s cannot be read: %s", metadata["namespace"], metadata["name"], error
            )
        return known.condition != before

    async def _read(self, job: Manifest) -> Manifest | None:
        metadata = job["metadata"]
        selector = f"involvedObject.uid={metadata['uid']},reason={_REASON}"
        found = await self._api.select(EVENT.path(metadata["namespace"]), selector)
        newest = max(found, key=_last_seen, default=None)
        if newest is None:
            return None
        return {
            "type": _TYPE,
            "status": _STATUS,
            "reason": _REASON,
            "message": str(newest.get("message") or _REASON).rpartition(_SAYS)[2],
            "lastTransitionTime": min(map(_first_seen, found)),
        }


def _last_seen(event: Manifest) -> str:
    series = event.get("series") or {}
    return str(series.get("lastObservedTime") or event.get("lastTimestamp") or _first_seen(event))


def _first_seen(event: Manifest) -> str:
    return str(event.get("firstTimestamp") or event.get("eventTime") or event["metadata"]["creationTimestamp"])
