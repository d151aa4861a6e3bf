"""Leadership by a Lease of our own: one replica reconciles, the others watch and wait.

kopf's peering pauses by priority and cannot promise that one at most acts. Ours can, up to what is on its way: of a
process that was stopped one write, of one that was cut off what its workers had sent while the Lease was good.

- The leader renews every 2 s. Before every write it looks at its monotonic clock: when its last successful renewal was
  begun more than 6 s ago, the process ends at once.
- A candidate takes a Lease that it has seen unchanged for 10 s on its own clock, or whose holder gave it back. Clocks
  of two machines are never compared.
- Every change names the version that it replaces, so of two candidates one loses.

Ten seconds are more than six by the time that a request may be on its way.
"""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import NoReturn

from headrace.reconcile.world import Manifest
from headrace_operator.client import CONFLICT, NOT_FOUND, ApiError, ApiServer

log = logging.getLogger(__name__)

DURATION_SECONDS = 10.0
VALID_SECONDS = 6.0
RENEW_SECONDS = 2.0
RETRY_SECONDS = 0.5
LOOK_SECONDS = 1.0
LOST_EXIT_CODE = 70


def end_process(why: str) -> NoReturn:
    """End without any clean-up: whatever this process still does, another one does too by now."""
    log.critical("%s; ending at once", why)
    logging.shutdown()
    os._exit(LOST_EXIT_CODE)


class Lease:
    """See the module."""

    def __init__(
        self,
        api: ApiServer,
        namespace: str,
        name: str,
        holder: str,
        *,
        clock: Callable[[], float] = time.monotonic,
        end: Callable[[str], NoReturn] = end_process,
    ) -> None:
        self._api = api
        self._collection = f"/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases"
        self._path = f"{self._collection}/{name}"
        self._name = name
        self._holder = f"{holder}-{secrets.token_hex(4)}"  # a container that is restarted keeps the pod's name
        self._clock = clock
        self._end = end
        self._lease: Manifest | None = None
        self._renewed = float("-inf")
        self._seen: tuple[str, float] | None = None
        """What a candidate saw last, and since when."""

    def check(self) -> None:
        """End the process when it may not be the leader any more. Called before every write."""
        silent = self._clock() - self._renewed
        if silent > VALID_SECONDS:
            self._end(f"the Lease was not renewed for {silent:.1f} s")

    async def acquire(self) -> None:
        """Return when this replica leads."""
        while not await self._try_to_acquire():  # noqa: ASYNC110 - another process gives it up
            await asyncio.sleep(LOOK_SECONDS)
        log.info("%s leads", self._holder)

    async def keep(self) -> None:
        """Renew until cancelled; ends the process when the Lease is lost."""
        while True:
            await asyncio.sleep(RENEW_SECONDS)
            while not await self._renew():
                self.check()
                await asyncio.sleep(RETRY_SECONDS)

    async def release(self) -> None:
        """Give the Lease back, so that another replica need not wait for its end."""
        if self._lease is None:
            return
        self._renewed = float("-inf")
        try:
            await self._put(holder="")
        except ApiError as error:
            log.warning("the Lease is not given back: %s", error)

    async def _try_to_acquire(self) -> bool:
        try:
            found = await self._api.get(self._path)
        except ApiError as error:
            if error.status != NOT_FOUND:
                log.warning("cannot look at the Lease: %s", error)
                return False
            found = None
        if found is not None and not self._is_free(found):
            return False
        self._lease = found
        try:
            await self._put(holder=self._holder)
        except ApiError as error:
            self._lease = None
            if error.status != CONFLICT:
                log.warning("cannot take the Lease: %s", error)
            return False
        return True

    def _is_free(self, lease: Manifest) -> bool:
        spec = lease.get("spec", {})
        if not spec.get("holderIdentity"):
            return True
        version, now = str(lease["metadata"]["resourceVersion"]), self._clock()
        if self._seen is None or self._seen[0] != version:
            self._seen = (version, now)
        return now - self._seen[1] >= DURATION_SECONDS

    async def _renew(self) -> bool:
        try:
            await self._put(holder=self._holder)
        except ApiError as error:
            log.warning("the Lease is not renewed: %s", error)
            if error.status in (CONFLICT, NOT_FOUND):
                await self._look_whose_it_is()
            return False
        return True

    async def _look_whose_it_is(self) -> None:
        """A renewal whose answer was lost conflicts with itself; any other holder means that it is taken."""
        try:
            found = await self._api.get(self._path)
        except ApiError as error:
            log.warning("cannot look at the Lease: %s", error)
            return
        if found.get("spec", {}).get("holderIdentity") != self._holder:
            self._end("the Lease was taken by another replica")
        self._lease = found

    async def _put(self, *, holder: str) -> None:
        begun = self._clock()
        known = self._lease or {"metadata": {"name": self._name}}
        before = known.get("spec", {})
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        mine = before.get("holderIdentity") == holder
        lease: Manifest = {
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": {
                field: known["metadata"][field] for field in ("name", "resourceVersion") if field in known["metadata"]
            },
            "spec": {
                "holderIdentity": holder,
                "leaseDurationSeconds": int(DURATION_SECONDS),
                "renewTime": now,
                "acquireTime": before.get("acquireTime", now) if mine else now,
                "leaseTransitions": int(before.get("leaseTransitions", 0)) + (0 if mine or not holder else 1),
            },
        }
        if self._lease is None:
            self._lease = await self._api.write_lease("POST", self._collection, lease)
        else:
            self._lease = await self._api.write_lease("PUT", self._path, lease)
        if holder:
            self._renewed = begun
