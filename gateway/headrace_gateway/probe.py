"""One probe of a replica: whether it serves, and whether the process at the address is the one that reported."""

from __future__ import annotations

import asyncio
import hmac
from dataclasses import dataclass
from enum import Enum, auto

from headrace import headers
from headrace.events.secret import new_challenge, proof
from headrace_gateway.model import ServedModel
from headrace_gateway.replica import Replica
from headrace_gateway.upstream.connection import Head, Unreachable, UpstreamError

PROBE_SECONDS = 2.0
_OK = 200
_PROOF = headers.PROOF.encode()


class Answer(Enum):
    """What came back."""

    READY = auto()
    NOT_READY = auto()
    """It answered, and not with 200."""
    STRANGER = auto()
    """What answered is not the process that reported."""
    CLOSED = auto()
    """The connection was refused or broken: the process is gone, or closed its port and finishes what runs."""
    NONE = auto()
    """Nothing came."""


@dataclass(frozen=True, slots=True)
class Finding:
    """The answer to a probe."""

    answer: Answer
    fault: str = ""
    """Why the replica is not ready, for the log."""

    @property
    def proven(self) -> bool:
        """Whether the replica is at its address, as far as it can prove it."""
        return self.answer in (Answer.READY, Answer.NOT_READY)


async def probe(model: ServedModel, replica: Replica) -> Finding:
    """Ask the readiness path once. The connection stays for the first request.

    The token of requests is not sent: it is the process's alone, and who is there is not known yet.
    """
    challenge = new_challenge()
    request = (
        f"GET {model.readiness_path(replica)} HTTP/1.1\r\n{replica.host_field}"
        f"user-agent: headrace-gateway\r\n{headers.CHALLENGE}: {challenge}\r\n\r\n"
    )
    try:
        async with asyncio.timeout(PROBE_SECONDS):
            head = await _head(replica, request.encode())
    except (TimeoutError, Unreachable) as error:
        return Finding(Answer.NONE, str(error) or f"no answer within {PROBE_SECONDS:.0f} s")
    except UpstreamError as error:
        return Finding(Answer.CLOSED, str(error))
    if replica.secret is not None:
        expected = proof(replica.secret, challenge, model.namespace, replica.pod) or ""
        if not hmac.compare_digest(expected.encode(), head.get(_PROOF) or b""):
            return Finding(Answer.STRANGER, f"what answers (status {head.status}) did not prove to be this replica")
    if head.status != _OK:
        return Finding(Answer.NOT_READY, f"status {head.status}")
    return Finding(Answer.READY)


async def _head(replica: Replica, request: bytes) -> Head:
    connection = await replica.pool.connect()
    try:
        connection.send(request)
        while not connection.complete:
            await connection.changed()
            connection.take()
        assert connection.head is not None
        return connection.head
    finally:
        replica.pool.give_back(connection)
