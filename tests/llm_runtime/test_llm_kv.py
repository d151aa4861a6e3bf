"""The KV cache: shared prefixes are found and verified, memory is reused in order, slots move as little as possible."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace_llm.kv.paged import PagedCache
from headrace_llm.kv.slots import SlotCache, window_moves
from headrace_llm.sequence import Sequence

BLOCK = 4


def computed(cache: PagedCache, sequence: Sequence) -> Sequence:
    """Admit a sequence and compute all of it."""
    assert cache.admit(sequence)
    cache.computed(sequence, len(sequence.tokens))
    return sequence


def test_prefix_when_cached_then_its_full_blocks_are_shared() -> None:
    cache = PagedCache(blocks=8, block_tokens=BLOCK)
    first = computed(cache, Sequence(list(range(11))))
    second = Sequence([*range(10), 99])
    assert cache.admit(second)
    assert second.blocks[:2] == first.blocks[:2]
    assert second.blocks[2] not in first.blocks
    assert second.computed == 2 * BLOCK
    assert (cache.counters.prefix_queries, cache.counters.prefix_hits) == (22, 8)
    cache.check([first, second])


def test_prefix_when_all_is_cached_then_one_token_is_computed() -> None:
    cache = PagedCache(blocks=8, block_tokens=BLOCK)
    computed(cache, Sequence(list(range(8))))
    again = Sequence(list(range(8)))
    assert cache.admit(again)
    assert again.computed == BLOCK


@pytest.mark.parametrize(
    "other",
    [
        Sequence([0, 1, 2, 4, 4, 5]),
        Sequence(list(range(6)), salt=b"other tenant"),
        Sequence(list(range(6)), reports_prompt=True),
        Sequence([9, 9, 9, 9, 0, 1, 2, 3, 4]),
    ],
)
def test_prefix_when_it_differs_then_nothing_is_shared(other: Sequence) -> None:
    cache = PagedCache(blocks=8, block_tokens=BLOCK)
    computed(cache, Sequence(list(range(6))))
    assert cache.admit(other)
    assert other.computed == 0


def test_prefix_when_digests_collide_then_tokens_decide() -> None:
    cache = PagedCache(blocks=8, block_tokens=BLOCK)
    first = computed(cache, Sequence(list(range(6))))
    other = Sequence([7, 7, 7, 7, 7, 7], chain=list(first.chain))
    assert cache.admit(other)
    assert other.computed == 0


def test_prefix_when_disabled_then_nothing_is_shared() -> None:
    cache = PagedCache(blocks=8, block_tokens=BLOCK, shares=False)
    computed(cache, Sequence(list(range(6))))
    other = Sequence(list(range(6)))
    assert cache.admit(other)
    assert other.computed == 0
    assert cache.counters.prefix_queries == 0


def test_prefix_when_computed_meanwhile_then_it_is_skipped() -> None:
    cache = PagedCache(blocks=8, block_tokens=BLOCK)
    first, second = Sequence(list(range(10))), Sequence(list(range(9)))
    assert cache.admit(first)
    assert cache.admit(second)
    cache.computed(first, 10)
    assert cache.skip(second) == 2 * BLOCK
    assert second.blocks[:2] == first.blocks[:2]
    assert cache.used_blocks == 4
    cache.check([first, second])


def test_blocks_when_reused_then_ends_of_prefixes_go_first() -> None:
    cache = PagedCache(blocks=4, block_tokens=BLOCK)
    old = computed(cache, Sequence(list(range(9))))
    head, tail, rest = old.blocks
    cache.release(old)
    new = Sequence([50] * 9)
    assert cache.admit(new)
    assert new.blocks == [rest, 3, tail]
    again = Sequence(list(range(5)))
    cache.release(new)
    assert cache.admit(again)
    assert again.blocks[0] == head
    cache.check([again])


def test_admit_when_only_its_own_prefix_is_free_then_refused() -> None:
    """A free block that the sequence itself shares cannot also be one of its new blocks."""
    cache = PagedCache(blocks=3, block_tokens=BLOCK)
    old = computed(cache, Sequence(list(range(5))))
    keeper = Sequence([60])
    assert cache.admit(keeper)
    cache.release(old)
    assert not cache.admit(Sequence(list(range(9))))
    assert cache.admit(Sequence(list(range(6))))


def test_extend_when_memory_lacks_then_nothing_changes() -> None:
    cache = PagedCache(blocks=2, block_tokens=BLOCK)
    sequence = computed(cache, Sequence([1]))
    assert not cache.extend(sequence, 3 * BLOCK)
    assert len(sequence.blocks) == 1
    assert cache.extend(sequence, 2 * BLOCK)
    cache.check([sequence])


@given(total=st.integers(1, 9), data=st.data())
def test_window_moves_then_as_few_as_brute_force_finds(total: int, data: st.DataObject) -> None:
    """The fewest moves of all windows, from live slots into holes, and then no hole is left."""
    live = data.draw(st.sets(st.integers(0, total - 1)))
    moves = window_moves(live, total)
    windows = (set(range(start, start + len(live))) for start in range(total - len(live) + 1))
    assert len(moves) == min(len(live - window) for window in windows)
    left = set(live)
    for source, destination in moves:
        assert source in left
        assert destination not in left
        left = left - {source} | {destination}
    assert all(after - before == 1 for before, after in pairwise(sorted(left)))


def test_slots_when_one_ends_then_the_window_closes() -> None:
    cache = SlotCache(blocks=4, block_tokens=16)
    sequences = [Sequence([1]) for _ in range(4)]
    assert all(cache.admit(sequence) for sequence in sequences)
    assert not cache.admit(Sequence([1]))
    cache.release(sequences[1])
    assert cache.close_holes() == [(3, 1)]
    assert (cache.window, sequences[0].blocks) == (range(3), [0])
    late = Sequence([1])
    assert cache.admit(late)
    assert late.blocks == [3]
    cache.check([sequences[0], *sequences[2:], late])
