"""The prefix cache: which block has the keys and values of which tokens.

Keys and values of a position depend on all tokens up to it, so a full block is known by a digest of its tokens and the
digest of the block before it (a chain, as in vLLM). The chain starts with the sequence's salt. Digests are
cryptographic, because a collision would show one request the cache of another; a hit compares the tokens too.
Only full blocks are cached: their content never changes, so no block is ever copied before a write.
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass
from hashlib import blake2b

from headrace_llm.sequence import Sequence

DIGEST_BYTES = 16


@dataclass(frozen=True, slots=True)
class _Entry:
    block: int
    tokens: bytes


class PrefixCache:
    """Digests of full blocks. Invariant: a block has at most one digest, and a digest at most one block."""

    def __init__(self, block_tokens: int) -> None:
        self._block_tokens = block_tokens
        self._entries: dict[bytes, _Entry] = {}
        self._digests: dict[int, bytes] = {}

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, block: object) -> bool:
        return block in self._digests

    def find(self, sequence: Sequence, index: int) -> int | None:
        """Return the block with the content of the sequence's full block `index`."""
        entry = self._entries.get(self._digest(sequence, index))
        return entry.block if entry is not None and entry.tokens == self._tokens(sequence, index) else None

    def add(self, sequence: Sequence, index: int) -> None:
        """Cache the sequence's full block `index`, unless another block has its content."""
        digest = self._digest(sequence, index)
        if digest not in self._entries:
            block = sequence.blocks[index]
            self._entries[digest] = _Entry(block, self._tokens(sequence, index))
            self._digests[block] = digest

    def forget(self, block: int) -> None:
        """Remove a block whose content is lost."""
        digest = self._digests.pop(block, None)
        if digest is not None:
            del self._entries[digest]

    def _digest(self, sequence: Sequence, index: int) -> bytes:
        chain = sequence.chain
        while len(chain) <= index:
            digest = blake2b(chain[-1] if chain else sequence.salt, digest_size=DIGEST_BYTES)
            digest.update(self._tokens(sequence, len(chain)))
            chain.append(digest.digest())
        return chain[index]

    def _tokens(self, sequence: Sequence, index: int) -> bytes:
        start = index * self._block_tokens
        return array("I", sequence.tokens[start : start + self._block_tokens]).tobytes()
