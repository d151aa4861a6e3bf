"""The gateway's table in memory: routes, API keys, and replicas.

A request never waits for a look-up. The table changes only by events (`link`) and by the copy on disk at the start
(`disk`); its entries do not expire.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import TypeVar

from pydantic import ValidationError

from headrace.events.messages import ReplicaReport
from headrace.http.errors import ModelNotFound
from headrace.routes import KeyGrant, Route
from headrace.routes.api_keys import FORM, entry_of
from headrace_gateway.errors import InvalidApiKey, TableNotLoaded
from headrace_gateway.model import ServedModel
from headrace_gateway.replica import Replica

log = logging.getLogger(__name__)

Entry = TypeVar("Entry", Route, KeyGrant)

_BEARER = b"bearer "
_HOW = "Send the key as `Authorization: Bearer <key>`"
MAX_KEY_BYTES = 512
LOADING_SECONDS = 5.0
"""How long requests wait for the first routes without a copy on disk: NATS may be starting too."""


class Table:
    """See the module. `changed` is called after each change that belongs into the copy on disk."""

    def __init__(self, anonymous_namespace: str | None, on_demand: Callable[[ServedModel], None]) -> None:
        self.models: dict[tuple[str, str], ServedModel] = {}
        """By namespace and name of the ModelDeployment."""
        self.loaded = asyncio.Event()
        """Set when routes and keys were read, from NATS or from disk; until then no key or model counts as unknown."""
        self.changed: Callable[[], None] = lambda: None
        self._anonymous = KeyGrant(namespace=anonymous_namespace, name="") if anonymous_namespace else None
        self._on_demand = on_demand
        self._grants: dict[str, KeyGrant | None] = {}
        """By their entry in the bucket, which contains the namespace: a digest is not valid in another one.

        None: a key that was lost or cannot be read. It is not valid, but a key exists: requests without a key are
        served only after the explicit deletion of the last one."""
        self._public: dict[tuple[str, str], ServedModel] = {}
        self._addresses: dict[tuple[str, int], tuple[ServedModel, Replica]] = {}
        """By address: the replica that has proven it."""
        self._known: dict[str, set[Replica]] = {}
        """By namespace."""
        self._unproven: dict[str, dict[Replica, ServedModel]] = {}
        """By namespace, in the order of their first reports."""

    # -- authorization ---------------------------------------------------------------------------------------------

    async def wait_loaded(self) -> None:
        """Wait until the table is loaded. Raises TableNotLoaded."""
        try:
            async with asyncio.timeout(LOADING_SECONDS):
                await self.loaded.wait()
        except TimeoutError:
            raise TableNotLoaded("the gateway has not loaded its routes yet", hint="Try again in a second") from None

    def authenticate(self, authorization: bytes | None) -> KeyGrant:
        """Return the grant of the API key. Raises InvalidApiKey.

        The look-up is by digest, so its duration reveals nothing about existing keys.
        """
        if not self._grants and self._anonymous is not None:
            return self._anonymous
        if authorization is None:
            raise InvalidApiKey("an API key is needed", hint=_HOW)
        if authorization[: len(_BEARER)].lower() != _BEARER:
            raise InvalidApiKey("the Authorization header does not begin with `Bearer `", hint=_HOW)
        key = authorization[len(_BEARER) :].strip()
        if not key:
            raise InvalidApiKey("the Authorization header has no key after `Bearer`", hint=_HOW)
        entry = entry_of(key) if len(key) <= MAX_KEY_BYTES else None
        if entry is None:
            raise InvalidApiKey(
                f"this is not an API key: its form is {FORM}", hint="Ask the operator of this gateway for a key"
            )
        grant = self._grants.get(entry)
        if grant is None:
            raise InvalidApiKey("the API key is unknown or revoked", hint="Ask the operator of this gateway for a key")
        return grant

    @property
    def keyless(self) -> bool:
        """Whether requests are served without a key: it is known that there is none, and a namespace is open then."""
        return self._anonymous is not None and self.loaded.is_set() and not self._grants

    def find(self, grant: KeyGrant, public_name: str) -> ServedModel:
        """Return the model. Raises ModelNotFound, also for a model that the key does not allow."""
        model = self._public.get((grant.namespace, public_name))
        if model is None or not _allows(grant, public_name, model):
            raise ModelNotFound(
                f"the model {public_name[:200]!r} does not exist", param="model", hint="GET /v1/models lists yours"
            )
        return model

    def visible(self, grant: KeyGrant) -> list[tuple[str, Route]]:
        """Return the public names that a key opens, of models and adapters, sorted, with their routes."""
        return sorted(
            (
                (public_name, model.route)
                for (namespace, public_name), model in self._public.items()
                if namespace == grant.namespace and model.route is not None and _allows(grant, public_name, model)
            ),
            key=lambda pair: pair[0],
        )

    # -- what the loop writes --------------------------------------------------------------------------------------

    def set_route(self, key: str, value: bytes | None) -> None:
        """Take an entry of the bucket of routes; an unreadable one changes nothing."""
        namespace, _, name = key.partition(".")
        if value is None:
            model = self.models.get((namespace, name))
            if model is None or model.route is None:
                return
            model.set_route(None)
            self._index()
            self.drop_if_gone(model)
        else:
            route = _decoded(Route, key, value)
            if route is None or route.key != key:
                return
            model = self.model(namespace, name)
            before = model.route
            if before == route:
                return
            model.set_route(route)
            if before is None or _indexed(before) != _indexed(route):
                self._index()
        self.changed()

    def set_key(self, entry: str, value: bytes | None) -> None:
        """Take an entry of the bucket of keys. None: it was deleted."""
        if value is not None:
            self._set_grant(entry, _decoded(KeyGrant, "of a key", value))
        elif entry in self._grants:
            del self._grants[entry]
            self.changed()

    def lose_key(self, entry: str) -> None:
        """Invalidate a key that is missing without having been deleted: the bucket, or a part of it, was lost."""
        self._set_grant(entry, None)

    def _set_grant(self, entry: str, grant: KeyGrant | None) -> None:
        if grant is not None and grant.namespace != entry.partition(".")[0]:
            grant = None  # a grant for another namespace than its entry was not written by the loop
        if entry not in self._grants or self._grants[entry] != grant:
            self._grants[entry] = grant
            self.changed()

    def routes(self) -> dict[str, Route]:
        """Return the routes by their key in the bucket."""
        return {model.route.key: model.route for model in self.models.values() if model.route is not None}

    def grants(self) -> dict[str, KeyGrant | None]:
        """Return the grant of each key, by its entry in the bucket; None: not valid any more."""
        return dict(self._grants)

    # -- models and replicas ---------------------------------------------------------------------------------------

    def model(self, namespace: str, name: str) -> ServedModel:
        """Return the model, creating it if necessary: reports may arrive before the route."""
        model = self.models.get((namespace, name))
        if model is None:
            model = self.models[namespace, name] = ServedModel(namespace, name, self._on_demand)
        return model

    def holder(self, report: ReplicaReport) -> tuple[ServedModel, Replica] | None:
        """Return the replica that has proven the reported address."""
        return self._addresses.get((report.host, report.port))

    def known_of(self, namespace: str) -> int:
        """Return how many replicas of a namespace are known."""
        return len(self._known.get(namespace, ()))

    def unproven_of(self, namespace: str) -> Mapping[Replica, ServedModel]:
        """Return a namespace's replicas that have not proven their address, the oldest first."""
        return self._unproven.get(namespace, {})

    def add_replica(self, model: ServedModel, replica: Replica) -> None:
        """Add a replica. It replaces one of the same name; it holds its address once it is proven."""
        previous = model.replicas.get(replica.pod)
        model.replicas[replica.pod] = replica  # first: a model without replicas may be dropped
        self._known.setdefault(model.namespace, set()).add(replica)
        if replica.proven:
            self.prove(model, replica)
        else:
            self._unproven.setdefault(model.namespace, {})[replica] = model
        if previous is not None:
            self.remove_replica(model, previous)

    def prove(self, model: ServedModel, replica: Replica) -> None:
        """Assign the address to the replica, and remove its former holder, which must not get another tenant's text."""
        replica.proven = True
        self._drop_unproven(model, replica)
        before = self.holder(replica.report)
        self._addresses[replica.report.host, replica.report.port] = (model, replica)
        if before is not None and before[1] is not replica:
            self.remove_replica(*before)
        self.changed()

    def remove_replica(self, model: ServedModel, replica: Replica) -> None:
        """Remove a replica; its requests in flight continue."""
        replica.withdraw()
        if model.replicas.get(replica.pod) is replica:
            del model.replicas[replica.pod]
        known = self._known.get(model.namespace, set())
        known.discard(replica)
        if not known:
            self._known.pop(model.namespace, None)
        self._drop_unproven(model, replica)
        holder = self.holder(replica.report)
        if holder is not None and holder[1] is replica:
            del self._addresses[replica.report.host, replica.report.port]
        self.drop_if_gone(model)
        if replica.proven:
            self.changed()

    def _drop_unproven(self, model: ServedModel, replica: Replica) -> None:
        unproven = self._unproven.get(model.namespace, {})
        unproven.pop(replica, None)
        if not unproven:
            self._unproven.pop(model.namespace, None)

    def drop_if_gone(self, model: ServedModel) -> None:
        """Remove a model that has no route, no replicas and no requests in flight."""
        if model.route is None and not model.replicas and not model.in_flight:
            self.models.pop((model.namespace, model.name), None)

    def _index(self) -> None:
        """Index models by their public names; the oldest of several has it, as in the reconcile loop."""
        routed = [(model.route, model) for model in self.models.values() if model.route is not None]
        routed.sort(key=lambda pair: (pair[0].created, pair[0].name), reverse=True)
        self._public = {
            (route.namespace, name): model for route, model in routed for name in (route.public_name, *route.adapters)
        }


def _indexed(route: Route) -> tuple[object, ...]:
    """Return the fields that the index depends on."""
    return route.public_name, route.created, route.adapters


def _allows(grant: KeyGrant, public_name: str, model: ServedModel) -> bool:
    """Whether a key opens a model or an adapter; a key for a model opens its adapters too."""
    parent = model.route.public_name if model.route is not None else public_name
    return not grant.models or public_name in grant.models or parent in grant.models


def _decoded(kind: type[Entry], what: str, value: bytes) -> Entry | None:
    try:
        return kind.decode(value)
    except ValidationError as error:
        log.warning("ignored the %s %s: %d faults", kind.__name__, what, error.error_count())
        return None
