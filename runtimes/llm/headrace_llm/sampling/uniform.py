"""Random numbers of a sampled answer: a function of the seed and of the token's index, without state.

So an answer does not depend on the other requests of a batch, and it can continue on another replica from its seed and
the number of its tokens.
"""

from __future__ import annotations

import os

_MASK = 2**64 - 1
_GOLDEN = 0x9E3779B97F4A7C15


def random_seed() -> int:
    """Return a seed of 64 random bits, for a request without one."""
    return int.from_bytes(os.urandom(8))


def uniform(seed: int, index: int) -> float:
    """Return number `index` of the seed's sequence, from 0 to 1 (excluded), a multiple of 2**-53.

    SplitMix64 (Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators, OOPSLA 2014) at its step `index`,
    from a state that is itself mixed, because the sequences of two seeds that differ by its increment would overlap:
    mix(mix(seed) + (index + 1) * 0x9E3779B97F4A7C15), modulo 2**64; its upper 53 bits. A seed is taken modulo 2**64.
    """
    return (_mix((_mix(seed & _MASK) + (index + 1) * _GOLDEN) & _MASK) >> 11) * 2.0**-53


def _mix(state: int) -> int:
    state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & _MASK
    return state ^ (state >> 31)
