"""The step scheduler: pending tokens are computed once and in order, and memory that lacks is taken from the last."""

from __future__ import annotations

import random

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, precondition, rule
from typing_extensions import override

from headrace_llm.kv.paged import PagedCache
from headrace_llm.kv.slots import SlotCache
from headrace_llm.scheduler.core import Scheduler, Step
from headrace_llm.scheduler.policies import POLICIES
from headrace_llm.sequence import Sequence

BLOCK = 4
LONGEST = 24
"""Tokens of the longest sequence, so that one always fits into the cache."""


def paged(blocks: int, *, running: int = 4, budget: int = 64) -> Scheduler:
    return Scheduler(POLICIES["sarathi"], PagedCache(blocks, BLOCK), max_running=running, token_budget=budget)


def commit(scheduler: Scheduler, step: Step, token: int = 7) -> None:
    """Compute a step; a sampled token is always the same, and no draft is accepted."""
    for chunk in step.chunks:
        scheduler.commit(chunk, [token] if chunk.samples else [])


def test_plan_when_memory_lacks_then_the_last_is_preempted() -> None:
    scheduler = paged(blocks=4)
    first, second = Sequence([1] * 8), Sequence([2] * 8)
    scheduler.add(first)
    scheduler.add(second)
    commit(scheduler, scheduler.plan())
    step = scheduler.plan()
    assert [chunk.sequence for chunk in step.chunks] == [first]
    assert (list(scheduler.waiting), scheduler.preemptions) == ([second], 1)
    commit(scheduler, step)
    scheduler.check()


def test_preempted_when_resumed_then_its_prefix_is_cached() -> None:
    scheduler = paged(blocks=4)
    first, second = Sequence([1] * 8), Sequence([2] * 8)
    scheduler.add(first)
    scheduler.add(second)
    commit(scheduler, scheduler.plan())
    commit(scheduler, scheduler.plan())
    scheduler.remove(first)
    (chunk,) = scheduler.plan().chunks
    assert (chunk.sequence, chunk.start, chunk.count, chunk.samples) == (second, BLOCK, BLOCK + 1, True)
    assert second.cached == 0, "counted is what its first admission found"


def test_plan_when_it_preempts_then_it_admits_nothing() -> None:
    scheduler = paged(blocks=4)
    for first_token in (1, 2):
        scheduler.add(Sequence([first_token] * 8))
    commit(scheduler, scheduler.plan())
    scheduler.add(Sequence([3]))
    assert len(scheduler.plan().chunks) == 1


def test_drafts_when_some_are_accepted_then_those_are_computed() -> None:
    scheduler = paged(blocks=4)
    sequence = Sequence([1, 2, 3])
    scheduler.add(sequence)
    commit(scheduler, scheduler.plan())
    sequence.drafts = [8, 9, 5]
    (chunk,) = scheduler.plan().chunks
    assert (chunk.tokens, chunk.start, chunk.outputs) == ([7, 8, 9, 5], 3, 4)
    scheduler.commit(chunk, [8, 9, 6])
    assert (sequence.tokens, sequence.computed, sequence.pending) == ([1, 2, 3, 7, 8, 9, 6], 6, 1)
    assert sequence.drafts == []


def test_drafts_when_memory_lacks_then_none_is_computed() -> None:
    scheduler = paged(blocks=1)
    sequence = Sequence([1, 2])
    scheduler.add(sequence)
    commit(scheduler, scheduler.plan())
    sequence.drafts = [8, 9]
    (chunk,) = scheduler.plan().chunks
    assert (chunk.count, chunk.drafts, scheduler.preemptions) == (1, 0, 0)


def test_prompt_when_reported_then_all_its_logits_are_outputs() -> None:
    scheduler = paged(blocks=8, budget=8)
    sequence = Sequence([1] * 10, reports_prompt=True)
    scheduler.add(sequence)
    (first,) = (step := scheduler.plan()).chunks
    commit(scheduler, step)
    (second,) = scheduler.plan().chunks
    assert (first.outputs, second.outputs) == (8, 2)


class SchedulerMachine(RuleBasedStateMachine):
    """Requests arrive, are computed, cancelled, preempted and finished under any policy, with too little memory.

    Prompts are of three tokens, so prefixes are often equal. The model answers with a function of all tokens before, so
    each answer is known, and drafts are sometimes right.
    """

    sequences = Bundle("sequences")

    def __init__(self) -> None:
        super().__init__()
        self.prompts: dict[Sequence, int] = {}
        """Length of the prompt by live sequence."""

    @initialize(
        policy=st.sampled_from(sorted(POLICIES)),
        shares=st.booleans(),
        blocks=st.integers(LONGEST // BLOCK, 3 * LONGEST // BLOCK),
        running=st.integers(1, 5),
        budget=st.integers(6, 40),
    )
    def start(self, policy: str, *, shares: bool, blocks: int, running: int, budget: int) -> None:
        cache = SlotCache(running, LONGEST) if policy == "flover" else PagedCache(blocks, BLOCK, shares)
        self.scheduler = Scheduler(POLICIES[policy], cache, max_running=running, token_budget=budget)
        self.contents: dict[tuple[int, int], tuple[int, ...]] = {}
        """What the decoder's cache would have: by block and offset, all tokens up to there."""

    @rule(target=sequences, prompt=st.lists(st.integers(0, 2), min_size=1, max_size=LONGEST - 1), salt=st.booleans())
    def arrive(self, prompt: list[int], *, salt: bool) -> Sequence:
        sequence = Sequence(list(prompt), salt=b"a" if salt else b"")
        self.prompts[sequence] = len(prompt)
        self.scheduler.add(sequence)
        return sequence

    @rule(sequence=consumes(sequences))
    def cancel(self, sequence: Sequence) -> None:
        if sequence in self.prompts:
            self.end(sequence)

    @rule(sequence=sequences, drafts=st.lists(st.integers(0, 2), max_size=3))
    def draft(self, sequence: Sequence, drafts: list[int]) -> None:
        if sequence in self.prompts and sequence.decodes and len(sequence.tokens) + len(drafts) < LONGEST:
            sequence.drafts = drafts

    @precondition(lambda self: self.prompts)
    @rule(steps=st.integers(1, 5))
    def step(self, steps: int) -> None:
        for _ in range(steps):
            self.one_step()

    def one_step(self) -> None:
        before = {sequence: sequence.computed for sequence in self.scheduler.running}
        step = self.scheduler.plan()
        assert step.chunks or not self.prompts, "live requests, and no progress"
        assert len({chunk.sequence for chunk in step.chunks}) == len(step.chunks)
        for source, destination in step.moves:
            for offset in range(self.scheduler.cache.block_tokens):
                if (source, offset) in self.contents:
                    self.contents[destination, offset] = self.contents[source, offset]
        for chunk in step.chunks:
            assert chunk.start == chunk.sequence.computed >= before.get(chunk.sequence, 0)
            assert chunk.start + chunk.count <= len(chunk.sequence.blocks) * self.scheduler.cache.block_tokens
            self.compute(chunk.sequence, chunk.start, chunk.tokens)
        for chunk in step.chunks:
            sampled: list[int] = []
            if chunk.samples:
                sampled = self.sampled(chunk.sequence, chunk.sequence.drafts[: chunk.drafts])
            self.scheduler.commit(chunk, sampled)
            if len(chunk.sequence.tokens) >= LONGEST:
                self.end(chunk.sequence)

    def compute(self, sequence: Sequence, start: int, tokens: list[int]) -> None:
        """Write what a decoder would write; verify that what it would read is of this sequence."""
        size = self.scheduler.cache.block_tokens
        for position, token in enumerate(tokens, start):
            before: tuple[int, ...] = (-1,) if sequence.salt else ()
            if position:
                before = self.contents[sequence.blocks[(position - 1) // size], (position - 1) % size]
            self.contents[sequence.blocks[position // size], position % size] = (*before, token)
        everything = (*((-1,) if sequence.salt else ()), *sequence.tokens)[: start + len(sequence.salt)]
        if start:
            assert self.contents[sequence.blocks[(start - 1) // size], (start - 1) % size] == everything

    @staticmethod
    def sampled(sequence: Sequence, drafts: list[int]) -> list[int]:
        """Return the model's tokens: those of the drafts that are right, and one more."""
        tokens = list(sequence.tokens)
        for draft in [*drafts, None]:
            tokens.append(random.Random(str(tokens)).randrange(3))
            if tokens[-1] != draft:
                break
        return tokens[len(sequence.tokens) :]

    def end(self, sequence: Sequence) -> None:
        tokens = sequence.tokens[: self.prompts.pop(sequence)]
        while len(tokens) < len(sequence.tokens):
            tokens += self.sampled(Sequence(tokens), [])
        assert tokens == sequence.tokens, "the answer is not the model's"
        self.scheduler.remove(sequence)

    @invariant()
    def all_blocks_are_accounted_for(self) -> None:
        if hasattr(self, "scheduler"):
            self.scheduler.check()

    @override
    def teardown(self) -> None:
        """Let everything finish: then no block is in use."""
        if hasattr(self, "scheduler"):
            while self.prompts:
                self.one_step()
                self.scheduler.check()
            assert self.scheduler.cache.used_blocks == 0
            assert not self.scheduler.running
            assert not self.scheduler.waiting


SchedulerMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestScheduler = SchedulerMachine.TestCase
