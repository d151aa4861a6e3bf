"""The step scheduler: a sequence's computed tokens chase its tokens, within a budget of tokens per step.

There are no phases for prefill and decode. A prompt in chunks, a cached prefix, an answer resumed after a preemption
and drafts of speculative decoding are all pending tokens. A policy (`scheduler.policies`) chooses whose pending tokens
a step computes; this module has the operations that it chooses from, and keeps the memory consistent.

When an answer needs a block and none is free, the sequence that was admitted last is preempted: it loses its blocks,
returns to the front of the queue and is computed again (the prefix cache usually still has most of it). First come,
first served: sequences are admitted in the order of arrival. Pure: no arrays, no clock.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Protocol

from headrace_llm.kv.cache import KVCache
from headrace_llm.kv.slots import Move
from headrace_llm.sequence import Sequence

MAX_REPORTED = 64
"""Tokens per step of prompts that report log probabilities: each has a row of logits, a megabyte with 262,144 tokens in
the vocabulary."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """Tokens of one sequence in a step: positions `start` to `start + count`."""

    sequence: Sequence
    start: int
    count: int
    drafts: int
    """How many of them are drafts, at the end."""
    samples: bool
    """Whether the chunk reaches the sequence's end, so that the next token can be sampled."""

    @property
    def outputs(self) -> int:
        """Of how many of its tokens, at the end, logits are needed."""
        if self.sequence.reports_prompt:
            return self.count
        return self.drafts + 1 if self.samples else 0

    @property
    def tokens(self) -> list[int]:
        """The token ids."""
        sequence = self.sequence
        own = sequence.tokens[self.start : self.start + self.count - self.drafts]
        return own + sequence.drafts[: self.drafts]


class Policy(Protocol):
    """Chooses a step's chunks. One module of `scheduler.policies` per policy."""

    def __call__(self, step: Step) -> None:
        """Add chunks to the step."""


@dataclass(slots=True)
class Scheduler:
    """The queue, the running sequences and their blocks. Invariant: only running sequences have blocks."""

    policy: Policy
    cache: KVCache
    max_running: int
    token_budget: int
    waiting: deque[Sequence] = field(default_factory=deque)
    running: list[Sequence] = field(default_factory=list)
    """In the order of admission."""
    preemptions: int = 0

    def add(self, sequence: Sequence) -> None:
        """Queue a sequence."""
        self.waiting.append(sequence)

    def remove(self, sequence: Sequence) -> None:
        """Forget a sequence that is finished or cancelled."""
        if sequence in self.waiting:
            self.waiting.remove(sequence)
        else:
            self.running.remove(sequence)
            self.cache.release(sequence)

    def plan(self) -> Step:
        """Return the next step."""
        step = Step(self, self.token_budget)
        self.policy(step)
        return step

    def commit(self, chunk: Chunk, sampled: list[int]) -> None:
        """Note that a chunk is computed and that these tokens were sampled after it: accepted drafts and one more."""
        sequence = chunk.sequence
        sequence.tokens += sampled
        sequence.drafts = []
        # Of the drafts, those that were sampled too are computed; the last sampled token never is.
        end = chunk.start + chunk.count - chunk.drafts + max(0, len(sampled) - 1)
        self.cache.computed(sequence, end)

    def check(self) -> None:
        """Raise AssertionError unless all blocks are accounted for. For tests."""
        self.cache.check(self.running)
        assert all(not sequence.blocks and not sequence.computed for sequence in self.waiting)


@dataclass(slots=True)
class Step:
    """A step in planning: what a policy sees and does."""

    scheduler: Scheduler
    left: int
    """Tokens of the budget that are not planned. Decodes may exceed it."""
    chunks: list[Chunk] = field(default_factory=list)
    moves: list[Move] = field(default_factory=list)
    """Blocks to be copied before the step."""
    preempted: bool = False
    reported_left: int = MAX_REPORTED
    """As `left`, of the tokens of prompts that report log probabilities."""

    @property
    def running(self) -> list[Sequence]:
        """All running sequences in the order of admission."""
        return self.scheduler.running

    @property
    def decoding(self) -> list[Sequence]:
        """The running sequences with one pending token."""
        return [sequence for sequence in self.running if sequence.decodes]

    @property
    def prefilling(self) -> list[Sequence]:
        """The running sequences with more."""
        return [sequence for sequence in self.running if not sequence.decodes]

    @property
    def prefills(self) -> bool:
        """Whether the step has a chunk of a prompt."""
        return any(chunk.count - chunk.drafts > 1 for chunk in self.chunks)

    def decode(self) -> None:
        """Compute all decodes, with drafts while the budget lasts; preempt the last admitted if memory lacks."""
        for sequence in self.decoding:
            if sequence.blocks:  # not preempted for one before it
                self._decode(sequence)

    def compute(self, sequence: Sequence, limit: int) -> None:
        """Compute at most `limit` pending tokens of a sequence, after those that the prefix cache has by now."""
        self.scheduler.cache.skip(sequence)
        count = min(sequence.pending, limit)
        if sequence.reports_prompt and not sequence.embeds:
            count = min(count, self.reported_left)
            self.reported_left -= max(count, 0)
        if count > 0:
            self._add(sequence, count, drafts=0)

    def admit(self) -> Sequence | None:
        """Admit the first sequence of the queue and return it; None if there is none or no room for it.

        A step that preempts admits nothing: it would take the memory that was just made free.
        """
        scheduler = self.scheduler
        if self.preempted or not scheduler.waiting or len(scheduler.running) >= scheduler.max_running:
            return None
        if not scheduler.cache.admit(scheduler.waiting[0]):
            return None
        sequence = scheduler.waiting.popleft()
        if sequence.cached is None:
            sequence.cached = sequence.computed
        scheduler.running.append(sequence)
        return sequence

    def _decode(self, sequence: Sequence) -> None:
        cache, length = self.scheduler.cache, len(sequence.tokens)
        drafts = len(sequence.drafts) if len(sequence.drafts) < self.left else 0
        if drafts and not cache.extend(sequence, length + drafts):
            drafts = 0
        while not drafts and not cache.extend(sequence, length):
            if self._preempt_last() is sequence:
                return
        self._add(sequence, 1 + drafts, drafts)

    def _preempt_last(self) -> Sequence:
        """Preempt the sequence that was admitted last. It has no chunk yet: decodes are planned in this order."""
        scheduler = self.scheduler
        sequence = scheduler.running.pop()
        scheduler.cache.release(sequence)
        sequence.drafts = []
        scheduler.waiting.appendleft(sequence)
        scheduler.preemptions += 1
        self.preempted = True
        return sequence

    def _add(self, sequence: Sequence, count: int, drafts: int) -> None:
        samples = count - drafts == sequence.pending
        self.chunks.append(Chunk(sequence, sequence.computed, count, drafts, samples))
        self.left -= count
