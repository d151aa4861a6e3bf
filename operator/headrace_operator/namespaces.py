"""The objects that a namespace needs before a model can run in it: a NATS login, and a claim for models.

The login's password is derived from a key that operator and broker share, so it is not stored, and a restarted broker
has it at once. The set of namespaces that may log in is sent to the broker as a whole.

Both objects are written by server-side apply, whose path contains the name also on creation: so the operator's rights
are restricted to these names.
"""

from __future__ import annotations

import asyncio
import base64
import logging

import nats.errors
from nats.aio.client import Client
from pydantic import ValidationError

from headrace.api.vocabulary import MANAGED_BY
from headrace.broker.config import runtime_user
from headrace.broker.passwords import runtime_password
from headrace.environment import NATS_SECRET
from headrace.events import subjects
from headrace.events.connection import raise_if_cancelled
from headrace.events.messages import AdmittedAnswer, AdmittedNamespaces
from headrace.reconcile.world import Manifest
from headrace_operator.client import NOT_FOUND, ApiError, ApiServer
from headrace_operator.kinds import CLAIM, SECRET
from headrace_operator.settings import ModelsClaim

log = logging.getLogger(__name__)

ANSWER_SECONDS = 5.0
RETRY_SECONDS = 1.0
AUDIT_SECONDS = 60.0
"""How long a login can stay lost while the watch of logins is down. An audit reads one object per namespace."""
_LABELS = {MANAGED_BY: "headrace"}


class Namespaces:
    """Provides each namespace, restores its login, and updates the broker's set."""

    def __init__(self, api: ApiServer, client: Client, runtime_key: str, claim: ModelsClaim) -> None:
        self._api = api
        self._client = client
        self._runtime_key = runtime_key
        self._claim = claim
        self._provided: set[str] = set()
        self._wanted: frozenset[str] = frozenset()
        self._left: set[str] = set()
        """Namespaces without models whose login still exists."""
        self._changed = asyncio.Event()
        self._suspected: set[str] = set()
        """Namespaces whose login was changed or deleted."""
        self._touched = asyncio.Event()

    def want(self, namespaces: frozenset[str]) -> None:
        """Set the namespaces with models: only their runtimes may log in."""
        if namespaces != self._wanted:
            self._left |= self._wanted - namespaces
            self._left -= namespaces
            self._provided &= namespaces  # a namespace that is deleted and created again has no objects of ours
            self._wanted = namespaces
            self._changed.set()

    def reconnected(self) -> None:
        """Send the set again: a restarted broker may have an older one."""
        self._changed.set()

    async def provide(self, namespace: str) -> None:
        """Create the objects of a namespace, once. Raises ApiError if the error may be temporary.

        A rejected claim does not prevent the creation of the children: the status of their pods then shows the cause.
        """
        if namespace in self._provided:
            return
        await self._make(namespace)
        if namespace in self._wanted:
            self._provided.add(namespace)

    async def watch_logins(self, scope: str | None) -> None:
        """Watch for deleted or changed logins, in a namespace or (None) in all; runs until cancelled."""
        while True:
            try:
                async for change in self._api.changes(SECRET, scope, NATS_SECRET):
                    if change.type != "ADDED":
                        self._suspected.add(change.namespace)
                        self._touched.set()
            except ApiError as error:
                log.warning("the watch of logins failed (%s); retrying", error)
            await asyncio.sleep(RETRY_SECONDS)

    async def keep_provided(self) -> None:
        """Restore deleted or changed logins; all are checked periodically. Runs until cancelled."""
        while True:
            try:
                async with asyncio.timeout(AUDIT_SECONDS):
                    await self._touched.wait()
            except TimeoutError:
                self._suspected |= self._provided
            self._touched.clear()
            suspected, self._suspected = self._suspected & self._provided, set()
            for namespace in sorted(suspected):
                try:
                    if await self._is_lost(namespace) and namespace in self._provided:
                        log.warning("the login of the namespace %s was changed or deleted; restoring it", namespace)
                        await self._make(namespace)
                except ApiError as error:
                    log.warning("the login of the namespace %s cannot be restored: %s", namespace, error)

    async def _is_lost(self, namespace: str) -> bool:
        try:
            found = await self._api.get(SECRET.path(namespace, NATS_SECRET))
        except ApiError as error:
            if error.status != NOT_FOUND:
                raise
            return True
        data = found.get("data") or {}
        return any(data.get(name) != value for name, value in self._secret(namespace)["data"].items())

    async def _make(self, namespace: str) -> None:
        await self._api.apply(SECRET.path(namespace, NATS_SECRET), self._secret(namespace), force=True)
        if not self._claim.existing:
            try:
                await self._make_claim(namespace)
            except ApiError as error:
                if error.passes:
                    raise
                log.error("no claim for models in the namespace %s: %s", namespace, error)  # noqa: TRY400 - explained
        if namespace not in self._wanted:  # its last model was deleted meanwhile
            self._left.add(namespace)
            self._changed.set()

    async def keep_admitted(self) -> None:
        """Send the set to the broker after each change, until it has answered; runs until cancelled."""
        while True:
            raise_if_cancelled()
            await self._changed.wait()
            self._changed.clear()
            done = await self._admit(self._wanted)
            done = await self._delete_unused_logins() and done
            if not done:
                self._changed.set()
                await asyncio.sleep(RETRY_SECONDS)

    async def _admit(self, namespaces: frozenset[str]) -> bool:
        """Send the set to the broker; return whether it was accepted."""
        message = AdmittedNamespaces(namespaces=tuple(sorted(namespaces)))
        try:
            answer = await self._client.request(subjects.ADMIT, message.encode(), timeout=ANSWER_SECONDS)
            refusal = AdmittedAnswer.decode(answer.data).refusal
        except (nats.errors.Error, TimeoutError, OSError, ValidationError) as error:
            raise_if_cancelled()
            log.warning(
                "the broker did not answer to the set of namespaces (%s); retrying", error or type(error).__name__
            )
            return False
        if refusal is not None:
            log.error("the broker rejected the set of namespaces: %s", refusal)
        return refusal is None

    async def _delete_unused_logins(self) -> bool:
        """Delete the logins of namespaces without models; the claims with models are kept."""
        for namespace in sorted(self._left):
            try:
                await self._api.delete(SECRET.path(namespace, NATS_SECRET))
            except ApiError as error:
                log.warning("the login of the namespace %s was not deleted: %s", namespace, error)
                if error.passes:
                    return False
            self._left.discard(namespace)
        return True

    async def _make_claim(self, namespace: str) -> None:
        """Create the claim if it does not exist; an existing one keeps its size and class."""
        path = CLAIM.path(namespace, self._claim.name)
        try:
            await self._api.get(path)
        except ApiError as error:
            if error.status != NOT_FOUND:
                raise
            await self._api.apply(path, self._claim_manifest(namespace), force=False)

    def _secret(self, namespace: str) -> Manifest:
        login = {"user": runtime_user(namespace), "password": runtime_password(self._runtime_key, namespace)}
        return {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": NATS_SECRET, "namespace": namespace, "labels": _LABELS},
            "data": {name: base64.b64encode(value.encode()).decode() for name, value in login.items()},
        }

    def _claim_manifest(self, namespace: str) -> Manifest:
        spec: Manifest = {
            "accessModes": [self._claim.access_mode],
            "resources": {"requests": {"storage": self._claim.size}},
        }
        if self._claim.storage_class is not None:
            spec["storageClassName"] = self._claim.storage_class
        return {
            "apiVersion": "v1",
            "kind": "PersistentVolumeClaim",
            "metadata": {"name": self._claim.name, "namespace": namespace, "labels": _LABELS},
            "spec": spec,
        }
