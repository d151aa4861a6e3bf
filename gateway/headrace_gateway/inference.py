"""The path of a request: API key, model, replica, forwarding.

    authenticate ─▶ read the body ─▶ find the model ─▶ take a slot, or queue ────────▶ send ──▶ relay
                                                          ▲                            │
                                                          └───────── rejected, lost ◀──┘

The operation defines which parts of a request are read (`headrace_gateway.operations`). The body is forwarded byte for
byte, unless an engine has another name for the model.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from time import perf_counter

from starlette.types import ASGIApp, Receive, Scope, Send

from headrace import headers
from headrace.api.vocabulary import STARTING
from headrace.errors import HeadraceError
from headrace.http.answers import CLIENT_CLOSED_REQUEST
from headrace.http.errors import ClientGone, Saturated
from headrace.routes import KeyGrant
from headrace_gateway.access import AccessLog
from headrace_gateway.errors import GatewayStopping, ReplicaLost
from headrace_gateway.exchange import Exchange
from headrace_gateway.holding import hold
from headrace_gateway.metrics import GatewayMetrics, ModelMetrics
from headrace_gateway.model import Lease, ServedModel
from headrace_gateway.operations import OPERATIONS, Match, OperationTable, RequestInfo
from headrace_gateway.probe import connect
from headrace_gateway.relay import relay
from headrace_gateway.retries import MAX_ATTEMPTS, RetryBudget
from headrace_gateway.table import Table
from headrace_gateway.upstream.connection import (
    ConnectFailed,
    Connection,
    ConnectionLost,
    Head,
    ReplicaUnresponsive,
    UpstreamError,
)

log = logging.getLogger(__name__)

MAX_BODIES_BYTES = 256 * 1024 * 1024
"""Of all requests that are received, queued or in flight: a body is kept for retries, and counted before it is read.

A tenant may use as much as remains free: one alone a half, two a third each. So another tenant always finds memory
(the dynamic threshold of shared-memory switches, Choudhury and Hahne 1998)."""
STALE_SECONDS = 0.005
"""A reused connection that ends within this round-trip time had been closed by the replica before the request arrived.
One that ends later may have been ended by the request."""
_REJECTIONS = frozenset(
    {headers.DRAINING.encode(), headers.SATURATED.encode(), STARTING.encode(), headers.NOT_FROM_GATEWAY.encode()}
)
"""Reasons of a rejection. The last one comes from a process that has started since the replica's last report."""
_REJECTION_STATUSES = frozenset({401, 429, 503})
_REASON = headers.REASON.encode()


class RequestRejected(Exception):
    """The replica rejected the request; another one may take it."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(slots=True)
class RequestState:
    """The progress of one request, for the access log and the metrics."""

    exchange: Exchange
    match: Match
    grant: KeyGrant | None = None
    model: ServedModel | None = None
    body: bytes = b""
    reserved_bytes: int = 0
    """Of `MAX_BODIES_BYTES`."""
    attempts: int = 0
    stale: bool = False
    """Whether it was sent on a reused connection that the replica had closed."""
    pod: str = ""
    queued_seconds: float = 0.0
    given_up_seconds: float = 0.0
    """Time at replicas that were unresponsive; it counts towards the deadline, like queueing."""
    sent_at: float = 0.0
    waited_seconds: float = 0.0
    """Time from the last byte of the request to the head of the replica's response."""


class Inference:
    """The ASGI application: inference is served here, everything else by `control`."""

    def __init__(
        self,
        table: Table,
        control: ASGIApp,
        metrics: GatewayMetrics,
        access: AccessLog,
        max_body_bytes: int,
        operations: OperationTable = OPERATIONS,
    ) -> None:
        self._table = table
        self._control = control
        self._metrics = metrics
        self._access = access
        self._max_body_bytes = max_body_bytes
        self._operations = operations
        self._bodies_bytes = 0
        self._tenant_bytes: dict[str, int] = {}
        self._budget = RetryBudget()
        self._running: set[Exchange] = set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] == "http" and (match := self._operations.match(scope)) is not None:
            await self._serve(RequestState(Exchange(scope, receive, send), match))
        else:
            await self._control(scope, receive, send)

    def abort_all(self) -> None:
        """End all requests with an error: the grace period of the gateway ends."""
        for exchange in list(self._running):
            exchange.abort(GatewayStopping("the gateway is stopping", hint="Send the request again"))

    async def _serve(self, state: RequestState) -> None:
        exchange = state.exchange
        self._running.add(exchange)
        try:
            await self._answer(state)
        except ClientGone:
            exchange.status, exchange.reason = CLIENT_CLOSED_REQUEST, "ClientGone"
        except HeadraceError as error:
            await exchange.fail(error)
        except Exception as error:
            log.exception("request %s failed", exchange.id.decode())
            await exchange.fail(HeadraceError(f"the gateway failed ({type(error).__name__}); see its log"))
        finally:
            self._running.discard(exchange)
            self._reserve(state, 0)
            exchange.close()
            self._record(state)

    async def _answer(self, state: RequestState) -> None:
        exchange = state.exchange
        request, model = await self._arrive(state)
        exchange.watch()
        lease = model.take(request)
        while True:
            if lease is None:
                lease = await self._wait_for_slot(state, request, model)
            state.pod = lease.replica.pod
            try:
                await self._attempt(state, request, model, lease)
            except RequestRejected as refusal:
                model.metrics.retries[refusal.reason] += 1
                if refusal.reason == headers.SATURATED:
                    model.pause(lease.replica)
                else:
                    lease.replica.withdraw()
            except UpstreamError as error:
                self._lost(state, model, lease, error)
            else:
                return
            finally:
                model.release(lease)
                exchange.on_blocked = None
            lease = None

    async def _arrive(self, state: RequestState) -> tuple[RequestInfo, ServedModel]:
        """Return the request and its model. Raises the error of a request that is not authorized or not valid."""
        exchange, table = state.exchange, self._table
        authorization = exchange.authorization()
        if not table.loaded.is_set():
            await table.wait_loaded()
            exchange.check_guard()
        grant = state.grant = table.authenticate(authorization)
        limit = self._max_body_bytes
        self._reserve(state, limit if exchange.declared_bytes is None else min(exchange.declared_bytes, limit))
        state.body = await exchange.body(limit)
        self._reserve(state, len(state.body))
        request = state.match.read(exchange.id, grant.namespace, state.body)
        model = state.model = table.find(grant, request.public_name)
        if model.is_adapter(request.public_name):
            request = request._replace(adapter=request.public_name)
        if (objection := model.objection(request)) is not None:
            raise objection
        self._budget.earn()
        return request, model

    def _reserve(self, state: RequestState, size: int) -> None:
        """Reserve this many bytes for the request in place of its previous reservation. Raises Saturated."""
        more, grant = size - state.reserved_bytes, state.grant
        if not more or grant is None:
            return
        total, tenant = self._bodies_bytes + more, self._tenant_bytes.get(grant.namespace, 0) + more
        if more > 0 and tenant > MAX_BODIES_BYTES - total:
            raise Saturated("the gateway's memory for request bodies of your namespace is full", hint="Try again later")
        self._bodies_bytes, state.reserved_bytes = total, size
        self._tenant_bytes[grant.namespace] = tenant

    async def _wait_for_slot(self, state: RequestState, request: RequestInfo, model: ServedModel) -> Lease:
        """Return a free slot, at once or after queueing. A request that is retried waits in front of new ones."""
        retried = state.pod != ""
        if retried and (lease := model.take(request)) is not None:
            return lease
        began = perf_counter()
        # Earlier waiting counts towards the deadline.
        since = asyncio.get_running_loop().time() - state.queued_seconds - state.given_up_seconds
        try:
            return await hold(state.exchange, model, request, since, front=retried)
        finally:
            state.queued_seconds += perf_counter() - began

    async def _attempt(self, state: RequestState, request: RequestInfo, model: ServedModel, lease: Lease) -> None:
        """Send the request to the replica and relay its response. Raises RequestRejected, UpstreamError."""
        replica, pool = lease.replica, lease.replica.pool
        message = _message(state, request, replica.fields, model.engine_model_name(replica))
        connection = pool.idle()
        if connection is not None:
            began = perf_counter()
            try:
                await self._send(state, model, lease, connection, message)
            except ConnectionLost as error:
                if error.answered or state.stale or perf_counter() - began > STALE_SECONDS:
                    raise
                # The idle connection was closed just when it was used: not a fault of the replica. Assumed once.
                state.stale = True
                model.metrics.retries["stale-connection"] += 1
            else:
                return
            finally:
                pool.give_back(connection)
        try:
            connection = await connect(model, replica)
        except ConnectFailed:
            if connection is not None:
                state.attempts += 1  # not a closed idle connection: the request may have ended the process
            raise
        try:
            await self._send(state, model, lease, connection, message)
        finally:
            pool.give_back(connection)

    async def _send(
        self, state: RequestState, model: ServedModel, lease: Lease, connection: Connection, message: bytes
    ) -> None:
        exchange = state.exchange
        connection.send(message)
        sent = state.sent_at = perf_counter()
        try:
            while connection.head is None:
                await exchange.wait(connection.changed())
        finally:
            state.waited_seconds += perf_counter() - sent
        head = connection.head
        if head.status in _REJECTION_STATUSES:
            _raise_if_rejected(head)
        # While a client does not read its response, the bytes stay in memory, and the slot of the replica is released.
        exchange.on_blocked = lambda: connection.when_complete(lambda: model.release(lease))
        await relay(exchange, connection, head, f"{lease.replica.pod}/{lease.reason}".encode())

    def _lost(self, state: RequestState, model: ServedModel, lease: Lease, error: UpstreamError) -> None:
        """The replica is lost. Returns when the request may be tried again, else raises."""
        replica = lease.replica
        log.warning("lost %s/%s: %s", model.namespace, replica.pod, error)
        if isinstance(error, ConnectFailed):
            cause = "connect-failed"
            replica.withdraw()
        elif isinstance(error, ReplicaUnresponsive):
            cause = "replica-silent"
            state.given_up_seconds += perf_counter() - state.sent_at
            state.attempts += 1
        else:
            cause = "connection-lost"
            replica.suspect = True  # until its next report, others are preferred
            state.attempts += 1
        seen = state.exchange.first_byte_at is not None
        if seen or state.attempts >= MAX_ATTEMPTS or not self._budget.spend():
            raise ReplicaLost(
                f"the replica was lost before the answer was complete ({error})", hint="Send the request again"
            ) from error
        model.metrics.retries[cause] += 1

    def _record(self, state: RequestState) -> None:
        exchange, model = state.exchange, state.model
        now = perf_counter()
        metrics: ModelMetrics = model.metrics if model is not None else self._metrics.unknown
        metrics.codes[exchange.status] += 1
        metrics.received_bytes += exchange.received_bytes
        metrics.sent_bytes += exchange.sent_bytes
        first = exchange.first_byte_at
        if state.queued_seconds:
            metrics.queued.observe(state.queued_seconds)
        if first is not None:
            metrics.first_byte.observe(first - exchange.began)
            metrics.added.observe(max(0.0, first - exchange.began - state.queued_seconds - state.waited_seconds))
        grant = state.grant
        self._access.write(
            f"request id={exchange.id.decode()} path={state.match.target()} status={exchange.status}"
            f" reason={exchange.reason or '-'} namespace={(grant and grant.namespace) or '-'}"
            f" key={(grant and grant.name) or '-'} model={(model and model.name) or '-'} replica={state.pod or '-'}"
            f" received={exchange.received_bytes} sent={exchange.sent_bytes} queued={state.queued_seconds:.4f}s"
            f" first={f'{first - exchange.began:.4f}s' if first is not None else '-'}"
            f" total={now - exchange.began:.4f}s"
        )


def _message(state: RequestState, request: RequestInfo, fields: bytes, engine_model_name: str | None) -> bytes:
    """Return the request for the replica; `fields` are the header lines of every request to it."""
    operation = request.operation
    body = operation.body_for(state.body, engine_model_name)
    target = operation.target(request.parameters, engine_model_name)
    start = f"{operation.method} {target} HTTP/1.1\r\n".encode()
    lines = [start, fields, f"content-length: {len(body)}\r\nx-request-id: ".encode(), request.id]
    for name, value in state.exchange.forwarded:
        lines += (b"\r\n", name, b": ", value)
    lines += (b"\r\n\r\n", body)
    return b"".join(lines)


def _raise_if_rejected(head: Head) -> None:
    reason = head.get(_REASON)
    if reason in _REJECTIONS:
        raise RequestRejected(reason.decode())
