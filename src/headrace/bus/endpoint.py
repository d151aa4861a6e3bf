"""An endpoint of the bus: sends and takes frames, with credits, acknowledgements and epochs.

Every pair of endpoints begins with a window of credits, which the router names at the join. A data frame consumes one;
the receiver grants them anew as its caller takes the frames, half a window at a time or with an acknowledgement. So at
most a window of frames of a pair is on the way, on every transport: redirected sockets have no back-pressure of their
own (measured: a million frames accepted for a receiver that never read).

Frames of a pair are taken in the order of their sequence numbers. The kernel keeps that order except where a pair's
path changes, e.g. from the activator's queue to the redirect; frames that overtake others wait for these, within the
window. So acknowledgements are cumulative: one stands for all earlier frames. An epoch fences: a receiver that has
advanced drops frames of earlier epochs, and their sender gets `StaleEpoch`.
"""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass, field
from typing import Self

from headrace.bus.errors import AckTimeout, CreditTimeout, PeerUnreachable, RouteForbidden, StaleEpoch
from headrace.bus.frames import DATA_KINDS, NO_KEY, ErrorCode, Frame, Kind
from headrace.bus.transport import Transport, await_welcome

PEERS = 4096
"""Most peers of an endpoint; those that are unreachable are forgotten for new ones, further ones are refused."""
_SEND_SECONDS = 5.0
_CONTROL_SECONDS = 1.0
"""Longest wait to send a credit, an acknowledgement or an error. A peer that keeps to its credits causes none."""
_FOREVER = 1e6
"""Seconds; poll(2) takes at most 2**31 ms."""
_ERRORS: dict[int, tuple[type[PeerUnreachable], str, str]] = {
    ErrorCode.UNKNOWN: (PeerUnreachable, "does not exist or has closed", "Look up its current id"),
    ErrorCode.FORBIDDEN: (RouteForbidden, "belongs to another tenant", "Use endpoints of one tenant"),
    ErrorCode.FORGED: (RouteForbidden, "got a frame with a forged source", "Send with the id of this endpoint"),
    ErrorCode.FULL: (PeerUnreachable, "does not take its frames, and a queue on the way is full", "Check the peer"),
    ErrorCode.STALE: (StaleEpoch, "has advanced to a later epoch", "Drop the work of the former epoch"),
    ErrorCode.DUPLICATE: (PeerUnreachable, "got a sequence number twice", "Send with one endpoint per id"),
}


@dataclass(slots=True)
class Counts:
    """What an endpoint has done since its join; frames unless stated otherwise."""

    sent: int = 0
    received: int = 0
    stale: int = 0
    """Dropped: of an earlier epoch."""
    refused: int = 0
    """Dropped: beyond the credits, twice, or of one peer too many (`PEERS`)."""
    credit_waits: int = 0
    """Sends that had to wait for credits."""


@dataclass(slots=True)
class _Peer:
    credits: int
    sent: int = 0
    """The last sequence number sent."""
    acked: int = 0
    received: int = 0
    """The last sequence number received with all before it."""
    limit: int = 0
    """The last sequence number that the peer has credits for."""
    early: dict[int, Frame] = field(default_factory=dict)
    """Frames that have overtaken others of the pair, by sequence number."""
    taken: int = 0
    """Frames taken whose credits are not yet granted anew."""
    error: int = 0
    """An ErrorCode, 0 while the peer is reachable."""
    fenced: int = 0
    """The last sequence number sent in a former epoch: that it is stale is no news."""
    refused: bool = False
    """A frame was refused, and the peer knows."""


class Endpoint:
    """A member of the bus. Not thread-safe: one thread owns it.

    An event loop may watch `fileno()`; frames can also arrive during `send`, so call `receive(0)` until it returns None
    both when the descriptor is readable and after a send.

    Args:
        transport: a connection that has just been made; the endpoint owns it.
        session: what must not be closed, by garbage collection, before the endpoint: the connection to the agent.

    Raises:
        JoinRefused: the router does not accept the endpoint.
    """

    def __init__(self, transport: Transport, session: object = None) -> None:
        self.transport = transport
        self._session = session
        try:
            welcome, *early = await_welcome(transport)
        except BaseException:
            transport.close()
            raise
        self.id = welcome.dst
        self.window = welcome.value
        self.epoch = 0
        self.counts = Counts()
        self._peers: dict[int, _Peer] = {}
        self._inbox: deque[Frame] = deque()
        for frame in early:
            self._handle(frame)

    def __enter__(self) -> Self:
        """Return the endpoint, which is closed at the end."""
        return self

    def __exit__(self, *_: object) -> None:
        """Leave the bus."""
        self.close()

    def send(
        self, dst: int, kind: Kind, *, key: bytes = NO_KEY, offset: int = 0, length: int = 0, value: int = 0,
        timeout: float = _SEND_SECONDS,
    ) -> int:  # fmt: skip
        """Send a descriptor; wait for credits if there are none. Return its sequence number.

        Args:
            dst: the peer's endpoint id.
            kind: one of DATA_KINDS.
            key: the object's key in the store.
            offset: of the part of the object, in bytes.
            length: of that part, in bytes.
            value: e.g. `weight_bits(0.5)`.
            timeout: longest wait, in seconds.

        Raises:
            CreditTimeout: the peer took none of its frames in time.
            PeerUnreachable: an earlier frame to the peer could not be delivered; subclasses say why.
            BusClosed: the connection ended.
            InvalidFrame: a field is out of range.
        """
        assert kind in DATA_KINDS
        deadline = time.monotonic() + timeout
        peer = self._peers.get(dst) or self._add(dst)
        if not peer.credits and not peer.error:
            self.counts.credit_waits += 1
            while not peer.credits and not peer.error:
                if not self._pump(deadline):
                    raise CreditTimeout(
                        dst, f"endpoint {dst:#010x} granted no credit in {timeout:g} s for {self.window} frames",
                        hint="Check that the peer is alive and takes its frames",
                    )  # fmt: skip
        self._raise_error(dst, peer)
        seq = peer.sent + 1
        frame = Frame(kind, dst, self.id, seq, key, offset, length, self.epoch, value)
        self.transport.send(frame, deadline)
        peer.sent, peer.credits = seq, peer.credits - 1
        self.counts.sent += 1
        return seq

    def receive(self, timeout: float | None = None) -> Frame | None:
        """Take the next data frame; None if there is none within `timeout` seconds (None: no limit).

        Raises:
            BusClosed: the connection ended; frames that arrived before are returned first.
            InvalidFrame: the connection carries something else than frames.
        """
        deadline = time.monotonic() + (_FOREVER if timeout is None else timeout)
        while not self._inbox:
            if not self._pump(deadline):
                return None
        frame = self._inbox.popleft()
        peer = self._peers[frame.src]
        peer.taken += 1
        self.counts.received += 1
        if peer.taken * 2 >= self.window:
            self._grant(frame.src, peer, Kind.CREDIT, 0)
        return frame

    def ack(self, frame: Frame) -> None:
        """Acknowledge this frame and all earlier ones of its source: they are processed. Nothing if it is forgotten.

        Raises BusClosed.
        """
        peer = self._peers.get(frame.src)
        if peer is not None:
            self._grant(frame.src, peer, Kind.ACK, frame.seq)

    def acked(self, dst: int) -> int:
        """Return the last sequence number that the peer has acknowledged, as far as frames were received; 0 if none."""
        peer = self._peers.get(dst)
        return peer.acked if peer else 0

    def wait_acked(self, dst: int, seq: int, timeout: float) -> None:
        """Wait until the peer has acknowledged the frame `seq`.

        Raises:
            AckTimeout: no acknowledgement within `timeout` seconds.
            PeerUnreachable: the frame or an earlier one could not be delivered; subclasses say why.
            BusClosed: the connection ended.
        """
        deadline = time.monotonic() + timeout
        peer = self._peers.get(dst) or self._add(dst)
        while peer.acked < seq:
            self._raise_error(dst, peer)
            if not self._pump(deadline):
                raise AckTimeout(
                    dst, f"endpoint {dst:#010x} did not acknowledge frame {seq} in {timeout:g} s",
                    hint="Treat the peer as dead: send the object to another one",
                )  # fmt: skip

    def advance(self, epoch: int) -> None:
        """Enter a later epoch: frames of earlier ones are dropped, and `StaleEpoch` of peers is cleared.

        Frames that wait to be taken are dropped too, if they are stale.
        """
        assert epoch > self.epoch
        self.epoch = epoch
        for peer in self._peers.values():
            peer.error = 0 if peer.error == ErrorCode.STALE else peer.error
            peer.fenced = peer.sent
        waiting, self._inbox = self._inbox, deque()
        for frame in waiting:
            if frame.epoch >= epoch:
                self._inbox.append(frame)
            else:
                self._drop_stale(frame)

    def forget(self, id_: int) -> None:
        """Drop what is known of a peer that has left; ids are never used again. Its frames that wait are dropped."""
        if self._peers.pop(id_, None) is not None:
            self._inbox = deque(frame for frame in self._inbox if frame.src != id_)
            self.transport.forget(id_)

    def fileno(self) -> int:
        """Return a descriptor that is readable when frames have arrived."""
        return self.transport.fileno()

    def close(self) -> None:
        """Leave the bus: the id is void, and peers get UNKNOWN for later frames."""
        self.transport.close()

    def _pump(self, deadline: float) -> bool:
        """Wait for frames and handle them. False at the deadline."""
        frames = self.transport.receive(max(0.0, deadline - time.monotonic()))
        for frame in frames:
            self._handle(frame)
        return bool(frames) or time.monotonic() < deadline

    def _handle(self, frame: Frame) -> None:
        if frame.kind in DATA_KINDS:
            self._accept(frame)
            return
        peer = self._peers.get(frame.src)
        if peer is None:
            return
        match frame.kind:
            case Kind.CREDIT | Kind.ACK:
                peer.credits = min(self.window, peer.credits + frame.value)
                if frame.kind is Kind.ACK:
                    peer.acked = max(peer.acked, min(frame.seq, peer.sent))
            case Kind.ERROR:
                if frame.offset != ErrorCode.STALE or frame.seq > peer.fenced:
                    peer.error = peer.error or frame.offset
            case _:
                pass

    def _accept(self, frame: Frame) -> None:
        peer = self._peers.get(frame.src)
        if peer is None:
            try:
                peer = self._add(frame.src)
            except PeerUnreachable:
                self.counts.refused += 1
                return
        if frame.seq > peer.limit:
            self._refuse(frame, peer, ErrorCode.FULL)
        elif frame.seq <= peer.received or frame.seq in peer.early:
            self._refuse(frame, peer, ErrorCode.DUPLICATE)
        elif frame.seq > peer.received + 1:
            peer.early[frame.seq] = frame
        else:
            self._take_in(frame, peer)
            while peer.early and (following := peer.early.pop(peer.received + 1, None)) is not None:
                self._take_in(following, peer)

    def _take_in(self, frame: Frame, peer: _Peer) -> None:
        """Queue the next frame of a pair."""
        peer.received += 1
        if frame.epoch < self.epoch:
            self._drop_stale(frame)
        else:
            self._inbox.append(frame)

    def _drop_stale(self, frame: Frame) -> None:
        peer = self._peers[frame.src]
        self.counts.stale += 1
        peer.taken += 1
        self._answer(frame, ErrorCode.STALE)
        self._grant(frame.src, peer, Kind.CREDIT, 0)

    def _refuse(self, frame: Frame, peer: _Peer, code: ErrorCode) -> None:
        """Drop a frame. Its sender may not use the pair any more, which is reported to it once."""
        self.counts.refused += 1
        if not peer.refused:
            peer.refused = True
            self._answer(frame, code)

    def _answer(self, frame: Frame, code: ErrorCode) -> None:
        self._control(Frame(Kind.ERROR, frame.src, self.id, frame.seq, offset=code))

    def _grant(self, dst: int, peer: _Peer, kind: Kind, seq: int) -> None:
        self._control(Frame(kind, dst, self.id, seq, epoch=self.epoch, value=peer.taken))
        peer.limit += peer.taken
        peer.taken = 0

    def _control(self, frame: Frame) -> None:
        self.transport.send(frame, time.monotonic() + _CONTROL_SECONDS)

    def _add(self, id_: int) -> _Peer:
        if len(self._peers) >= PEERS:
            for each in [each for each, peer in self._peers.items() if peer.error]:
                self.forget(each)
        if len(self._peers) >= PEERS:
            raise PeerUnreachable(id_, f"the endpoint has {PEERS:,} peers", hint="Forget those that have left")
        peer = self._peers[id_] = _Peer(self.window, limit=self.window)
        return peer

    def _raise_error(self, dst: int, peer: _Peer) -> None:
        if not peer.error:
            return
        kind, what, hint = _ERRORS.get(peer.error, _ERRORS[ErrorCode.UNKNOWN])
        raise kind(dst, f"endpoint {dst:#010x} {what}", hint=hint)
