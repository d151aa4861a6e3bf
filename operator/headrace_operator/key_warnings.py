"""Faults of API keys, reported as Warning events about their Secrets.

Not annotations: those require the right to patch Secrets, which RBAC cannot restrict to API keys. A fault is reported
once by each leader; equal events are one object with a count.
"""

from __future__ import annotations

import asyncio
import logging

from headrace.api import vocabulary as v
from headrace.control.keys import SecretKey, api_keys
from headrace.reconcile.conditions import clipped
from headrace.reconcile.world import Event, ResourceKey
from headrace_operator.events import Recorder
from headrace_operator.index import Index
from headrace_operator.kinds import SECRET

log = logging.getLogger(__name__)


class KeyWarnings:
    """See the module."""

    def __init__(self, index: Index, recorder: Recorder) -> None:
        self._index = index
        self._recorder = recorder
        self._reported: dict[SecretKey, str] = {}
        self._changed = asyncio.Event()
        self._changed.set()

    def changed(self, key: ResourceKey | None) -> None:
        """Take a change of the world (`headrace.control.world.Changed`); None: of an API key."""
        if key is None:
            self._changed.set()

    async def run(self) -> None:
        """Report faults until cancelled."""
        while True:
            await self._changed.wait()
            self._changed.clear()
            secrets = self._index.list(SECRET.kind)
            faults, before = api_keys(secrets).faults, self._reported
            self._reported = dict(faults)
            for secret in secrets:
                key = SecretKey(secret["metadata"]["namespace"], secret["metadata"]["name"])
                fault = faults.get(key)
                if fault is not None and fault != before.get(key):
                    log.warning("API key %s/%s: %s", key.namespace, key.name, fault)
                    await self._recorder.record(secret, Event("Warning", v.KEY_REJECTED, clipped(fault)))
