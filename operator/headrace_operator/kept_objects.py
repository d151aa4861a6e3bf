"""The objects that node agents pin, in a ConfigMap that the kubelets mount into them.

So an agent needs no login and no permission, and the operator writes one object by its name. A changed ConfigMap
reaches the agents within about a minute, which is soon enough: until then a new object is only evicted if it is the
least recently used one, and that of a deleted model occupies memory.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from headrace.agent.kept import encode
from headrace.errors import HeadraceError
from headrace.reconcile.world import Manifest, ResourceKey
from headrace_operator.client import ApiServer

log = logging.getLogger(__name__)

KEY = "objects"
"""Key of the ConfigMap, and name of the file."""
WRITE_SECONDS = 1.0
"""At least between two writes, so that the deletion of many models is one of them."""
RETRY_SECONDS = 10.0


class KeptObjects:
    """The objects of all resources; written once every existing resource was reconciled since the operator's start.

    Args:
        api: the API server.
        resources: returns the existing resources that may keep objects.
    """

    def __init__(self, api: ApiServer, resources: Callable[[], set[ResourceKey]]) -> None:
        self._api = api
        self._resources = resources
        self._objects: dict[ResourceKey, frozenset[str]] = {}
        self._changed = asyncio.Event()

    def update(self, owner: ResourceKey, names: frozenset[str] | None) -> None:
        """Set the objects of a resource; None: it was deleted."""
        before = self._objects.get(owner)
        if names is None:
            self._objects.pop(owner, None)
        else:
            self._objects[owner] = names
        if names != before:
            self._changed.set()

    async def run(self, namespace: str, name: str) -> None:
        """Write each change until cancelled."""
        path, written = f"/api/v1/namespaces/{namespace}/configmaps/{name}", None
        while True:
            await self._changed.wait()
            self._changed.clear()
            await asyncio.sleep(WRITE_SECONDS)
            if not self._resources() <= self._objects.keys():
                continue  # what the others keep is not known yet; they will change it
            text = encode({(owner.namespace, each) for owner, names in self._objects.items() for each in names})
            if text == written:
                continue
            patch: Manifest = {"data": {KEY: text}}
            try:
                await self._api.merge(path, patch)
            except HeadraceError as error:
                log.warning("the objects that node agents pin cannot be written: %s", error)
                asyncio.get_running_loop().call_later(RETRY_SECONDS, self._changed.set)
            else:
                written = text
