"""One loopback address per pod, so that pods can use the same port: Linux has all of 127.0.0.0/8."""

from __future__ import annotations

import socket

ADDRESSES_TRIED = 16
"""Another program on one address and port is rare; one on the port of *every* address is not."""


class Addresses:
    """Loopback addresses for pods, one each. `start` is random, so that instances rarely use the same addresses."""

    def __init__(self, start: int) -> None:
        self._next = start

    def take(self, ports: list[int]) -> str:
        """Return an address on which no program listens on these ports.

        If a program listens on such a port of every address, there is none: then the pod's process fails to listen.
        """
        for _ in range(ADDRESSES_TRIED):
            address = self._following()
            if all(_free(address, port) for port in ports):
                return address
        return self._following()

    def _following(self) -> str:
        self._next += 1
        rest, last = divmod(self._next, 254)  # never .0 and .255, which look like network addresses
        rest, third = divmod(rest, 256)
        return f"127.{64 + rest % 128}.{third}.{last + 1}"


def _free(address: str, port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address, port))
        except OSError:
            return False
        return True
