"""What a namespace needs before a model can run in it: a login to NATS, and a claim for models.

The login's password is derived from a key that operator and broker share, so nobody stores it, and a broker that starts
anew knows it at once. Which namespaces may log in is told to the broker as a whole set.

Both are written by server-side apply, whose request names the object also when it makes it: so the operator's rights
are to these names alone.
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
"""How long a login can stay lost while the watch of logins is down; one small read per namespace."""
_LABELS = {MANAGED_BY: "headrace"}


class Namespaces:
    """Provides each namespace, keeps its login, and keeps the broker's set."""

    def __init__(self, api: ApiServer, client: Client, runtime_key: str, claim: ModelsClaim) -> None:
        self._api = api
        self._client = client
        self._runtime_key = runtime_key
        self._claim = claim
        self._provided: set[str] = set()
        self._wanted: frozenset[str] = frozenset()
        self._left: set[str] = set()
        """Namespaces without models whose login is still there."""
        self._tell = asyncio.Event()
        self._suspected: set[str] = set()
        """Namespaces whose login somebody touched."""
        self._touched = asyncio.Event()

    def want(self, namespaces: frozenset[str]) -> None:
        """These namespaces have models: their runtimes may log in, others may not."""
        if namespaces != self._wanted:
            self._left |= self._wanted - namespaces
            self._left -= namespaces
            self._provided &= namespaces  # one that is deleted and made again has nothing of ours
            self._wanted = namespaces
            self._tell.set()

    def reconnected(self) -> None:
        """The broker is back, perhaps with an older set."""
        self._tell.set()

    async def provide(self, namespace: str) -> None:
        """Make what the namespace needs, once. Raises ApiError when it may go better next time.

        A claim that is refused does not keep the children from being made: their pods then say what they lack.
        """
        if namespace in self._provided:
            return
        await self._make(namespace)
        if namespace in self._wanted:
            self._provided.add(namespace)

    async def watch_logins(self, scope: str | None) -> None:
        """Hear at once when somebody deletes or changes a login, in a namespace or (None) in all; until cancelled."""
        while True:
            try:
                async for change in self._api.changes(SECRET, scope, NATS_SECRET):
                    if change.type != "ADDED":
                        self._suspected.add(change.namespace)
                        self._touched.set()
            except ApiError as error:
                log.warning("the logins are not watched (%s); again soon", error)
            await asyncio.sleep(RETRY_SECONDS)

    async def keep_provided(self) -> None:
        """Make the login anew that somebody deleted or changed; all are looked at now and then. Until cancelled."""
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
                        log.warning("the login of the namespace %s is not as it was made; making it anew", namespace)
                        await self._make(namespace)
                except ApiError as error:
                    log.warning("the login of the namespace %s cannot be kept: %s", namespace, error)

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
        if namespace not in self._wanted:  # its last model went meanwhile
            self._left.add(namespace)
            self._tell.set()

    async def keep_admitted(self) -> None:
        """Tell the broker the set at each change, until it has answered; runs until cancelled."""
        while True:
            raise_if_cancelled()
            await self._tell.wait()
            self._tell.clear()
            done = await self._admit(self._wanted)
            done = await self._take_back() and done
            if not done:
                self._tell.set()
                await asyncio.sleep(RETRY_SECONDS)

    async def _admit(self, namespaces: frozenset[str]) -> bool:
        """Tell the broker; return whether it obeys."""
        message = AdmittedNamespaces(namespaces=tuple(sorted(namespaces)))
        try:
            answer = await self._client.request(subjects.ADMIT, message.encode(), timeout=ANSWER_SECONDS)
            refusal = AdmittedAnswer.decode(answer.data).refusal
        except (nats.errors.Error, TimeoutError, OSError, ValidationError) as error:
            raise_if_cancelled()
            log.warning("the broker did not take the set of namespaces (%s); again soon", error or type(error).__name__)
            return False
        if refusal is not None:
            log.error("the broker refused the set of namespaces: %s", refusal)
        return refusal is None

    async def _take_back(self) -> bool:
        """Delete the logins of namespaces without models; the models stay, to be found again."""
        for namespace in sorted(self._left):
            try:
                await self._api.delete(SECRET.path(namespace, NATS_SECRET))
            except ApiError as error:
                log.warning("the login of the namespace %s is not taken back: %s", namespace, error)
                if error.passes:
                    return False
            self._left.discard(namespace)
        return True

    async def _make_claim(self, namespace: str) -> None:
        """Make the claim if it is not there: one that is keeps its size and class, whatever we would ask for today."""
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
