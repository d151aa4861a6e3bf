"""The ids of endpoints."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

from headrace.bus.frames import ROUTER

_ROUNDS = 4


def endpoint_ids(key: bytes) -> Iterator[int]:
    """Yield every u32 but ROUTER once, in an order that cannot be predicted without the key.

    A Feistel network over a counter (Luby and Rackoff, SIAM J. Comput. 17(2), 1988): a permutation, so ids are never
    reused, without a record of those used.
    """
    for number in range(1 << 32):
        left, right = number >> 16, number & 0xFFFF
        for turn in range(_ROUNDS):
            mixed = hashlib.blake2b(bytes([turn]) + right.to_bytes(2), key=key, digest_size=2).digest()
            left, right = right, left ^ int.from_bytes(mixed)
        if (id_ := left << 16 | right) != ROUTER:
            yield id_
