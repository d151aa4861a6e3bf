"""What a client is told while its request waits for a replica.

A client that asked for a plain answer is told nothing. One that asked for a stream gets the head of it after a moment,
and then comments (lines that begin with a colon, which every reader of server-sent events skips) that name the stage:
at each change, and often enough that neither it nor a proxy between us takes the connection for dead.
"""

from __future__ import annotations

import asyncio

from headrace_gateway.activator import Ticket
from headrace_gateway.exchange import Exchange
from headrace_gateway.model import Lease, ServedModel
from headrace_gateway.operations import RequestInfo

HEAD_AFTER_SECONDS = 0.25
"""Before that, a failure or a busy moment still gets a plain status and headers; people notice nothing shorter."""
COMMENT_SECONDS = 5.0
COMMENT_PAUSE_SECONDS = 0.2
"""Between two comments, however fast the stages change."""


async def hold(exchange: Exchange, model: ServedModel, request: RequestInfo, since: float, *, front: bool) -> Lease:
    """Wait for a place. Raises what ended the waiting, and ClientGone.

    Args:
        exchange: the client.
        model: what it waits for.
        request: what it requested.
        since: when it began to wait (the loop's clock); its deadline counts from there.
        front: whether it had a place before, and stands in front of all who had none.
    """
    if (reconsideration := model.reconsideration()) is not None:
        await exchange.wait(reconsideration)
        if (lease := model.take(request)) is not None:
            return lease
    ticket = model.hold(request, since, front=front)
    try:
        if request.stream:
            await _tell_stages(exchange, model, ticket)
        else:
            while ticket.outcome is None:
                await exchange.wait(ticket.changed())
    except BaseException:
        model.withdraw(ticket)
        raise
    if isinstance(ticket.outcome, Lease):
        return ticket.outcome
    assert ticket.outcome is not None
    raise ticket.outcome


async def _tell_stages(exchange: Exchange, model: ServedModel, ticket: Ticket) -> None:
    loop = asyncio.get_running_loop()
    told, told_at = "", float("-inf")
    look_at = ticket.since + HEAD_AFTER_SECONDS
    while ticket.outcome is None:
        timer = loop.call_at(look_at, ticket.wake)
        try:
            await exchange.wait(ticket.changed())
        finally:
            timer.cancel()
        now = loop.time()
        if ticket.outcome is not None or now < ticket.since + HEAD_AFTER_SECONDS:
            continue
        if not exchange.status:
            await exchange.start_stream()
        stage = model.stage()
        if now - told_at >= (COMMENT_SECONDS if stage == told else COMMENT_PAUSE_SECONDS):
            await exchange.write(f": headrace stage={stage}\n".encode())
            told, told_at = stage, now
        look_at = told_at + (COMMENT_SECONDS if stage == told else COMMENT_PAUSE_SECONDS)
