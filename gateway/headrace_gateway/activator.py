"""The queue in front of a model without a free replica: bounded, first come first served, with a deadline for each.

A waiting request has a `Ticket`. It ends with a slot of a replica, or with an error. In between it may be woken to
send the stage to its client. Nothing polls: free slots, deadlines and stages are events.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from headrace.errors import HeadraceError
from headrace_gateway.operations import RequestInfo

if TYPE_CHECKING:
    from headrace_gateway.model import Lease

RELEASED_WINDOW_SECONDS = 1.0
"""The longest wait of the requests released within it is reported as the queue's delay."""


class Ticket:
    """One waiting request."""

    __slots__ = ("_queue", "_timer", "_waiter", "outcome", "request", "since")

    def __init__(self, queue: HoldQueue, request: RequestInfo, since: float) -> None:
        self.request = request
        self.since = since
        """Monotonic time at which the request first waited."""
        self.outcome: Lease | HeadraceError | None = None
        self._queue = queue
        self._waiter: asyncio.Future[None] | None = None
        self._timer: asyncio.TimerHandle | None = None

    def changed(self) -> asyncio.Future[None]:
        """Return a future that is done when there is an outcome, or a new stage if a stream was requested."""
        self._waiter = asyncio.get_running_loop().create_future()
        if self.outcome is not None:
            self._waiter.set_result(None)
        return self._waiter

    def expire_at(self, deadline: float, error: Callable[[], HeadraceError]) -> None:
        """End with that error at the deadline (monotonic, the loop's clock)."""
        self._timer = asyncio.get_running_loop().call_at(deadline, self._expire, error)

    def settle(self, outcome: Lease | HeadraceError) -> None:
        """End the wait with an outcome."""
        assert self.outcome is None
        self.outcome = outcome
        if self._timer is not None:
            self._timer.cancel()
        self.wake()

    def wake(self) -> None:
        """Complete the future of `changed`."""
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _expire(self, error: Callable[[], HeadraceError]) -> None:
        if self.outcome is None:
            self._queue.discard(self)
            self.settle(error())


class HoldQueue:
    """The tickets of one model, in the order of arrival."""

    def __init__(self) -> None:
        self._tickets: deque[Ticket] = deque()
        self._longest_wait = 0.0
        self._released_at = 0.0

    def __len__(self) -> int:
        return len(self._tickets)

    def __iter__(self) -> Iterator[Ticket]:
        """Iterate over the tickets that wait now, in order; they may be removed meanwhile."""
        return iter(tuple(self._tickets))

    def holds(self, needs: tuple[str, str]) -> bool:
        """Whether a request with these needs waits (`RequestInfo.needs`)."""
        return any(ticket.request.needs == needs for ticket in self._tickets)

    def add(self, ticket: Ticket, *, front: bool) -> None:
        """Queue a ticket; `front` is for a request that had a slot and lost it."""
        if front:
            self._tickets.appendleft(ticket)
        else:
            self._tickets.append(ticket)

    def release(self, ticket: Ticket, lease: Lease, now: float) -> None:
        """Remove a ticket and settle it with a slot."""
        self._tickets.remove(ticket)
        wait = now - ticket.since
        if now - self._released_at > RELEASED_WINDOW_SECONDS or wait > self._longest_wait:
            self._longest_wait, self._released_at = wait, now
        ticket.settle(lease)

    def discard(self, ticket: Ticket) -> None:
        """Remove a ticket, if it is queued."""
        try:
            self._tickets.remove(ticket)
        except ValueError:
            return

    def fail(self, error: Callable[[], HeadraceError]) -> None:
        """End all tickets with an error."""
        while self._tickets:
            self._tickets.popleft().settle(error())

    def stage_changed(self) -> None:
        """Wake tickets of streams: their comments contain the stage."""
        for ticket in self._tickets:
            if ticket.request.stream:
                ticket.wake()

    def delay_seconds(self, now: float) -> float:
        """Return the age of the oldest ticket, or the longest wait of those released in the last second."""
        if self._tickets:
            return max(0.0, now - self._tickets[0].since)
        return self._longest_wait if now - self._released_at <= RELEASED_WINDOW_SECONDS else 0.0
