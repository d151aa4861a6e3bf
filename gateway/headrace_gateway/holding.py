"""What a client receives while its request waits for a replica.

A client that requested a plain response receives nothing. One that requested a stream receives its head after a moment,
and then comments (lines that begin with a colon, which every reader of server-sent events skips) with the stage: at
each change, and often enough that neither the client nor a proxy closes the connection as idle.
"""

from __future__ import annotations

import asyncio

from headrace_gateway.activator import Ticket
from headrace_gateway.exchange import Exchange
from headrace_gateway.model import Lease, ServedModel
from headrace_gateway.operations import RequestInfo

HEAD_AFTER_SECONDS = 0.25
"""Errors and responses before that still have their own status and headers; users do not notice a shorter wait."""
COMMENT_SECONDS = 5.0
COMMENT_PAUSE_SECONDS = 0.2
"""Minimum between two comments, however fast the stages change."""


async def hold(exchange: Exchange, model: ServedModel, request: RequestInfo, since: float, *, front: bool) -> Lease:
    """Wait for a slot. Raises the error that ended the wait, and ClientGone.

    Args:
        exchange: the client.
        model: the model.
        request: the request.
        since: start of the wait (the loop's clock); the deadline counts from there.
        front: whether it had a slot before, and waits in front of requests that had none.
    """
    if (reconsideration := model.reconsideration()) is not None:
        await exchange.wait(reconsideration)
        if (lease := model.take(request)) is not None:
            return lease
    ticket = model.hold(request, since, front=front)
    try:
        if request.stream:
            await _send_stages(exchange, model, ticket)
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


async def _send_stages(exchange: Exchange, model: ServedModel, ticket: Ticket) -> None:
    loop = asyncio.get_running_loop()
    sent, sent_at = "", float("-inf")
    wake_at = ticket.since + HEAD_AFTER_SECONDS
    while ticket.outcome is None:
        timer = loop.call_at(wake_at, ticket.wake)
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
        if now - sent_at >= (COMMENT_SECONDS if stage == sent else COMMENT_PAUSE_SECONDS):
            await exchange.write(f": headrace stage={stage}\n".encode())
            sent, sent_at = stage, now
        wake_at = sent_at + (COMMENT_SECONDS if stage == sent else COMMENT_PAUSE_SECONDS)
