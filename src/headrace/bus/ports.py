"""What a router knows of endpoints: its own, those of other nodes, and those that are about to join."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from headrace.bus.frames import Frame
from headrace.bus.wire import Wire


@dataclass(slots=True, eq=False)
class Port:
    """An endpoint of this router."""

    id: int
    tenant: str
    transport: str
    wire: Wire | None = None
    """None: no process has the endpoint, it is scaled to zero."""
    deliver: Callable[[Frame], bool] | None = None
    """Delivers in place of `wire` where the kernel has the socket (sockmap)."""
    held: bool = False
    """Frames wait until `Router.release`: the socket is about to be inserted into the kernel's map."""
    waiting: deque[Frame] = field(default_factory=deque)
    """Frames for an endpoint at zero, or held."""
    direct: set[int] = field(default_factory=set)
    """Peers with which a direct socket exists."""
    on_close: list[Callable[[], None]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Remote:
    """An endpoint of another node."""

    tenant: str
    link: str
    """Name of the link to its node."""


@dataclass(frozen=True, slots=True)
class Token:
    """A join that is expected over TCP."""

    tenant: str
    joined: Callable[[Port], None]
    reserved: int
    expires: float
    """Seconds of `time.monotonic`."""
