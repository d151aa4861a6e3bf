"""The block pool: reference counts, and a free list that is also the order of eviction.

A free block may still have content that the prefix cache knows. Blocks without content are taken first, then those that
were never taken, then the ones that were released longest ago.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable


class BlockPool:
    """Blocks 0 to `total - 1`. Invariant: a block is free exactly if it has no references."""

    def __init__(self, total: int, forget: Callable[[int], None]) -> None:
        """`forget` is called with a block whose content is lost because it is taken for another one."""
        self.total = total
        self.references: Counter[int] = Counter()
        self._unused = 0
        """Blocks from this on were never taken; listing millions of them would cost memory before any is used."""
        self._blank: list[int] = []
        """Free blocks without content."""
        self._free: OrderedDict[int, None] = OrderedDict()
        """Free blocks with content, the one released longest ago first."""
        self._forget = forget

    @property
    def free(self) -> int:
        """Blocks that can be taken."""
        return len(self._free) + len(self._blank) + self.total - self._unused

    def take(self) -> int:
        """Return a free block, with one reference. Raises KeyError if there is none."""
        if self._blank:
            block = self._blank.pop()
        elif self._unused < self.total:
            block = self._unused
            self._unused += 1
        else:
            block, _ = self._free.popitem(last=False)
            self._forget(block)
        self.references[block] = 1
        return block

    def share(self, block: int) -> None:
        """Add a reference to a block with content, free or not."""
        if self.references[block] == 0:
            del self._free[block]
        self.references[block] += 1

    def release(self, block: int, *, has_content: bool) -> None:
        """Drop a reference; with the last one the block is free, and reused late if it has content to share."""
        assert self.references[block] > 0, f"block {block} is released more often than taken"
        self.references[block] -= 1
        if self.references[block] == 0:
            del self.references[block]
            if has_content:
                self._free[block] = None
            else:
                self._blank.append(block)

    def check(self) -> None:
        """Raise AssertionError unless free and used blocks are all blocks."""
        blocks = [*self.references, *self._free, *self._blank, *range(self._unused, self.total)]
        assert sorted(blocks) == list(range(self.total)), "a block is neither free nor used, or both"
