"""Where a receiver of payloads can be reached."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from typing_extensions import override

from headrace.bus.frames import ROUTER
from headrace.payloads.errors import InvalidAddress

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_TEXT = re.compile(r"([0-9a-f]{32})@([^@/\s]{1,255}):([0-9]{1,5})(?:/([0-9a-f-]{36})/([0-9a-f]{8}))?")


@dataclass(frozen=True, slots=True)
class Address:
    """Of a receiver; `str` and `parse` convert it. It contains a secret, which permits sending."""

    host: str
    port: int
    token: bytes
    """16 bytes that a TCP connection begins with."""
    node: str = ""
    endpoint: int = ROUTER
    """On the descriptor bus of the agent of `node`; ROUTER without an agent."""

    @override
    def __str__(self) -> str:
        end = "" if self.endpoint == ROUTER else f"/{self.node}/{self.endpoint:08x}"
        return f"{self.token.hex()}@{self.host}:{self.port}{end}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the address in a text. Raises InvalidAddress, which does not contain the secret."""
        match = _TEXT.fullmatch(text)
        if match is None or int(match[3]) not in range(1, 1 << 16):
            raise InvalidAddress(
                "address: not TOKEN@HOST:PORT or TOKEN@HOST:PORT/NODE/ENDPOINT", hint="Use `Receiver.address` as it is"
            )
        token, host, port, node, endpoint = match.groups()
        return cls(host, int(port), bytes.fromhex(token), node or "", int(endpoint or "0", 16))


def this_node() -> str:
    """Return what identifies this node to all its pods until it reboots."""
    return _BOOT_ID.read_text(encoding="ascii").strip()
