"""nats-py without its WebSocket transport.

The library imports aiohttp for that transport if it is installed. No component uses it, and the import takes 120 ms of
processor time, more than the rest of the library: a third of what a replica imports before its first report. So
aiohttp is hidden while the library is imported; the library then works without that transport.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast

_HIDDEN = "aiohttp"


@contextmanager
def _without_websockets() -> Iterator[None]:
    if _HIDDEN in sys.modules:  # imported already: nothing is saved
        yield
        return
    modules = cast("dict[str, object]", sys.modules)
    modules[_HIDDEN] = None  # `import` of such a name raises ImportError (language reference, 5.3.1)
    try:
        yield
    finally:
        del modules[_HIDDEN]


with _without_websockets():
    from nats import errors
    from nats.aio.client import Client
    from nats.aio.msg import Msg
    from nats.protocol.parser import PERMISSIONS_ERR

__all__ = ["PERMISSIONS_ERR", "Client", "Msg", "errors"]
