"""Probes of a replica: whether it is ready, and whether the process at the address is the one that reported."""

from __future__ import annotations

import asyncio
import hmac
from dataclasses import dataclass
from enum import Enum, auto

from headrace import headers
from headrace.events.secret import new_challenge, proof
from headrace_gateway.model import OWN_READINESS_PATH, ServedModel
from headrace_gateway.replica import Replica
from headrace_gateway.upstream.connection import (
    ConnectFailed,
    Connection,
    ConnectionLost,
    NotProven,
    Unreachable,
    UpstreamError,
)

PROBE_SECONDS = 2.0
PROOF_PATH = OWN_READINESS_PATH
"""Requested from each self-registering process, whatever its readiness path is."""
ADDRESS_VALID_SECONDS = 2.0
"""Since the last sign of life: two reports. Until then no other process is assumed to have the address."""
_OK = 200
_TOO_LATE = f"no answer within {PROBE_SECONDS:.0f} s"
_PROOF = headers.PROOF.encode()


class Answer(Enum):
    """The result of a probe."""

    READY = auto()
    NOT_READY = auto()
    """It answered, but not with 200."""
    OTHER_PROCESS = auto()
    """Another process than the one that reported answered."""
    CLOSED = auto()
    """The connection was refused or broken: the process has exited, or closed its port and drains."""
    NONE = auto()
    """There was no answer."""


@dataclass(frozen=True, slots=True)
class Finding:
    """The answer to a probe."""

    answer: Answer
    fault: str = ""
    """Why the replica is not ready, for the log."""

    @property
    def proven(self) -> bool:
        """Whether the replica has proven its address."""
        return self.answer in (Answer.READY, Answer.NOT_READY)


async def probe(model: ServedModel, replica: Replica) -> Finding:
    """Request the proof and the readiness path. The connection is kept for the first request.

    A path that a tenant's spec names is requested only after the process at the address has proven itself. The token of
    requests is not sent, because the process is not identified yet.
    """
    path = model.readiness_path(replica)
    try:
        async with asyncio.timeout(PROBE_SECONDS):
            if replica.secret is not None and path != PROOF_PATH:
                finding = await _probe_path(model, replica, PROOF_PATH)
                if not finding.proven:
                    return finding
            return await _probe_path(model, replica, path)
    except (TimeoutError, Unreachable) as error:
        return Finding(Answer.NONE, f"{path}: {str(error) or _TOO_LATE}")
    except UpstreamError as error:
        return Finding(Answer.CLOSED, f"{path}: {error}")


async def connect(model: ServedModel, replica: Replica) -> Connection:
    """Return a new connection for a request. Raises ConnectFailed, Unreachable, NotProven.

    If the process may have exited, another one may have its address: the proof is requested on this connection first,
    so that another process gets neither the request nor its token.
    """
    loop = asyncio.get_running_loop()
    connection = await replica.pool.connect()
    if replica.secret is None or not (
        replica.pool.closed_by_replica or loop.time() - replica.alive > ADDRESS_VALID_SECONDS
    ):
        return connection
    usable = False
    try:
        async with asyncio.timeout(PROBE_SECONDS):
            finding = await _ask(model, replica, connection, PROOF_PATH)
        usable = finding.proven and connection.reusable
    except TimeoutError:
        raise Unreachable(f"{PROOF_PATH}: {_TOO_LATE}") from None
    except ConnectionLost as error:
        raise ConnectFailed(f"{PROOF_PATH}: {error}") from error
    finally:
        if not usable:
            replica.pool.give_back(connection)
    if not finding.proven:
        raise NotProven(finding.fault)
    replica.pool.closed_by_replica = False
    replica.note_alive(loop.time())
    return connection if usable else await replica.pool.connect()


async def _probe_path(model: ServedModel, replica: Replica, path: str) -> Finding:
    connection = await replica.pool.connect()
    try:
        return await _ask(model, replica, connection, path)
    finally:
        replica.pool.give_back(connection)


async def _ask(model: ServedModel, replica: Replica, connection: Connection, path: str) -> Finding:
    challenge = new_challenge()
    request = (
        f"GET {path} HTTP/1.1\r\n{replica.host_field}"
        f"user-agent: headrace-gateway\r\n{headers.CHALLENGE}: {challenge}\r\n\r\n"
    )
    connection.send(request.encode())
    while not connection.complete:
        await connection.changed()
        connection.take()
    head = connection.head
    assert head is not None
    if replica.secret is not None:
        expected = proof(replica.secret, challenge, model.namespace, replica.pod) or ""
        if not hmac.compare_digest(expected.encode(), head.get(_PROOF) or b""):
            fault = f"{path}: the process that answered (status {head.status}) did not prove to be this replica"
            return Finding(Answer.OTHER_PROCESS, fault)
    if head.status != _OK:
        return Finding(Answer.NOT_READY, f"{path}: status {head.status}")
    return Finding(Answer.READY)
