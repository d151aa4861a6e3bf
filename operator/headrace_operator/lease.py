"""Leader election by a Lease: one replica reconciles, the others watch and wait.

kopf's peering pauses by priority and cannot guarantee a single writer. This Lease does, except for requests in transit:
one write of a process that was stopped, and the writes that a disconnected process had sent while the Lease was valid.

- The leader renews every 2 s. Before every write it checks its monotonic clock: if its last successful renewal began
  more than 6 s ago, the process exits at once.
- A candidate acquires a Lease that was unchanged for 10 s on its own clock, or that was released. Clocks of two
  machines are never compared.
- Every update contains the resourceVersion that it replaces, so only one of two candidates succeeds.

The difference of ten and six seconds covers requests in transit.
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
POLL_SECONDS = 1.0
LOST_EXIT_CODE = 70


def end_process(why: str) -> NoReturn:
    """Exit without any clean-up: another replica may lead already."""
    log.critical("%s; exiting at once", why)
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
        self._holder = f"{holder}-{secrets.token_hex(4)}"  # a restarted container keeps the pod's name
        self._clock = clock
        self._end = end
        self._lease: Manifest | None = None
        self._renewed = float("-inf")
        self._seen: tuple[str, float] | None = None
        """The resourceVersion that a candidate saw last, and since when."""

    def check(self) -> None:
        """Exit if this process may not be the leader any more. Called before every write."""
        silent = self._clock() - self._renewed
        if silent > VALID_SECONDS:
            self._end(f"the Lease was not renewed for {silent:.1f} s")

    async def acquire(self) -> None:
        """Return when this replica leads."""
        while not await self._try_to_acquire():  # noqa: ASYNC110 - another process releases it
            await asyncio.sleep(POLL_SECONDS)
        log.info("%s is the leader", self._holder)

    async def keep(self) -> None:
        """Renew until cancelled; exits when the Lease is lost."""
        while True:
            await asyncio.sleep(RENEW_SECONDS)
            while not await self._renew():
                self.check()
                await asyncio.sleep(RETRY_SECONDS)

    async def release(self) -> None:
        """Release the Lease, so that another replica need not wait for its expiry."""
        if self._lease is None:
            return
        self._renewed = float("-inf")
        try:
            await self._put(holder="")
        except ApiError as error:
            log.warning("the Lease was not released: %s", error)

    async def _try_to_acquire(self) -> bool:
        try:
            found = await self._api.get(self._path)
        except ApiError as error:
            if error.status != NOT_FOUND:
                log.warning("cannot read the Lease: %s", error)
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
                log.warning("cannot acquire the Lease: %s", error)
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
            log.warning("the Lease was not renewed: %s", error)
            if error.status in (CONFLICT, NOT_FOUND):
                await self._check_holder()
            return False
        return True

    async def _check_holder(self) -> None:
        """Exit if another replica holds the Lease; a lost response to a renewal also causes a conflict."""
        try:
            found = await self._api.get(self._path)
        except ApiError as error:
            log.warning("cannot read the Lease: %s", error)
            return
        if found.get("spec", {}).get("holderIdentity") != self._holder:
            self._end("another replica has acquired the Lease")
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
