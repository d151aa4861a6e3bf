"""An API server's Leases in memory: versions that only grow, and a conflict for whoever names an old one."""

from __future__ import annotations

import json
from typing import Any, NoReturn

from headrace.reconcile.world import Manifest
from headrace_operator.client import CONFLICT, NOT_FOUND, ApiError
from headrace_operator.lease import Lease


class Ended(Exception):
    """What ends a process ends the test's replica."""


def end(why: str) -> NoReturn:
    raise Ended(why)


class Leases:
    """Also the clock of every replica: `now` is turned by the test. `away`: nothing is answered."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.away = False
        self.lose_answers = False
        """What is written is kept, and the answer lost."""
        self.lease: Manifest | None = None
        self._version = 0

    def replica(self, name: str) -> Lease:
        api: Any = self
        return Lease(api, "system", "headrace-operator", name, clock=lambda: self.now, end=end)

    @property
    def holder(self) -> str:
        """The holder without what makes it unique."""
        assert self.lease is not None
        return str(self.lease["spec"]["holderIdentity"]).rpartition("-")[0]

    async def get(self, path: str) -> Manifest:
        self._answer(path)
        if self.lease is None:
            raise ApiError(NOT_FOUND, path)
        found: Manifest = json.loads(json.dumps(self.lease))
        return found

    async def write_lease(self, method: str, path: str, lease: Manifest) -> Manifest:
        self._answer(path)
        version = lease["metadata"].get("resourceVersion")
        present = self.lease["metadata"]["resourceVersion"] if self.lease is not None else None
        if version != present or (method == "POST" and self.lease is not None):
            raise ApiError(CONFLICT, path)
        self._version += 1
        self.lease = json.loads(json.dumps(lease))
        assert self.lease is not None
        self.lease["metadata"]["resourceVersion"] = str(self._version)
        if self.lose_answers:
            raise ApiError(0, "the answer was lost")
        return await self.get(path)

    def _answer(self, path: str) -> None:
        if self.away:
            raise ApiError(0, f"{path}: away")
