"""Faults of API keys, written on their Secrets: an annotation while there is one, and an event when it appears.

The annotation is what was last told, so a new leader repeats nothing. Nothing depends on it: what cannot be written is
logged, and tried again with the next change of a key.
"""

from __future__ import annotations

import asyncio
import logging

from headrace.api import vocabulary as v
from headrace.control.keys import SecretKey, api_keys
from headrace.reconcile.world import Event, Manifest, ResourceKey
from headrace_operator.client import CONFLICT, NOT_FOUND, ApiError, ApiServer
from headrace_operator.events import Recorder
from headrace_operator.index import Index
from headrace_operator.kinds import SECRET

log = logging.getLogger(__name__)


class KeyWarnings:
    """See the module."""

    def __init__(self, api: ApiServer, index: Index, recorder: Recorder) -> None:
        self._api = api
        self._index = index
        self._recorder = recorder
        self._changed = asyncio.Event()
        self._changed.set()

    def changed(self, key: ResourceKey | None) -> None:
        """Hear of a change in the world (`headrace.control.world.Changed`); None: of an API key."""
        if key is None:
            self._changed.set()

    async def run(self) -> None:
        """Write warnings until cancelled."""
        while True:
            await self._changed.wait()
            self._changed.clear()
            secrets = self._index.list(SECRET.kind)
            faults = api_keys(secrets).faults
            for secret in secrets:
                metadata = secret["metadata"]
                fault = faults.get(SecretKey(metadata["namespace"], metadata["name"]))
                if fault != (metadata.get("annotations") or {}).get(v.WARNING_ANNOTATION):
                    await self._write(secret, fault)

    async def _write(self, secret: Manifest, fault: str | None) -> None:
        metadata = secret["metadata"]
        patch = {"metadata": {"uid": metadata["uid"], "annotations": {v.WARNING_ANNOTATION: fault}}}
        try:
            self._index.put(await self._api.merge(SECRET.path(metadata["namespace"], metadata["name"]), patch))
        except ApiError as error:
            if error.status not in (NOT_FOUND, CONFLICT):  # it is gone, or another one has its name
                log.warning("no warning on the Secret %s/%s: %s", metadata["namespace"], metadata["name"], error)
            return
        if fault is not None:
            log.warning("API key %s/%s: %s", metadata["namespace"], metadata["name"], fault)
            await self._recorder.record(secret, Event("Warning", v.KEY_REJECTED, fault))
