"""The block pool: reference counts, and a free list that is also the order of eviction.

A free block may still have content that the prefix cache knows. Blocks are taken from the front of the free list: first
those without content, then the ones that were released longest ago.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable


class BlockPool:
    """Blocks 0 to `total - 1`. Invariant: a block is in the free list exactly if its reference count is 0."""

    def __init__(self, total: int, forget: Callable[[int], None]) -> None:
        """`forget` is called with a block whose content is lost because it is taken for another one."""
        self.total = total
        self.references = [0] * total
        self._free: OrderedDict[int, None] = OrderedDict.fromkeys(range(total))
        self._forget = forget

    @property
    def free(self) -> int:
        """Blocks that can be taken."""
        return len(self._free)

    def take(self) -> int:
        """Return a free block, with one reference. Raises KeyError if there is none."""
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
            self._free[block] = None
            self._free.move_to_end(block, last=has_content)

    def check(self) -> None:
        """Raise AssertionError unless free and used blocks are all blocks."""
        unused = {block for block, count in enumerate(self.references) if count == 0}
        assert unused == set(self._free), "a block is neither free nor used, or both"
