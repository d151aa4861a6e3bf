"""The scheduling policies: each one's promise about a step, on the real scheduler."""

from __future__ import annotations

import pytest

from headrace_llm.kv.paged import PagedCache
from headrace_llm.kv.slots import SlotCache
from headrace_llm.scheduler.core import MAX_REPORTED, Scheduler, Step
from headrace_llm.scheduler.policies import POLICIES
from headrace_llm.sequence import Sequence

BUDGET = 64


def scheduler_of(policy: str, *, running: int = 8, budget: int = BUDGET) -> Scheduler:
    cache = SlotCache(running, 1024) if policy == "flover" else PagedCache(256, 32)
    return Scheduler(POLICIES[policy], cache, max_running=running, token_budget=budget)


def run(scheduler: Scheduler) -> Step:
    """Plan and compute a step."""
    step = scheduler.plan()
    for chunk in step.chunks:
        scheduler.commit(chunk, [5] if chunk.samples else [])
    return step


def prompt(length: int, token: int) -> Sequence:
    return Sequence([token] * length)


def with_decodes(policy: str, count: int) -> Scheduler:
    """Return a scheduler with running answers."""
    scheduler = scheduler_of(policy)
    for token in range(count):
        scheduler.add(prompt(3, token))
    while len([sequence for sequence in scheduler.running if sequence.decodes]) < count:
        run(scheduler)
    return scheduler


def sizes(step: Step) -> list[int]:
    return [chunk.count for chunk in step.chunks]


@pytest.mark.parametrize(
    ("policy", "steps"),
    [
        # Three answers run when prompts of 100 and 10 tokens arrive.
        ("sarathi", [[1, 1, 1, 32, 10], [1, 1, 1, 1, 32], [1, 1, 1, 1, 36], [1] * 5]),
        ("splitfuse", [[1, 1, 1, 61], [1, 1, 1, 39, 10], [1] * 5]),
        ("prefill-first", [[100], [10], [1] * 5]),
        ("static", [[1, 1, 1], [1, 1, 1]]),
        ("flover", [[1, 1, 1, 61], [1, 1, 1, 39], [1, 1, 1, 1, 10], [1] * 5]),
    ],
)
def test_steps_when_prompts_arrive_then_as_the_policy_says(policy: str, steps: list[list[int]]) -> None:
    scheduler = with_decodes(policy, 3)
    scheduler.add(prompt(100, 10))
    scheduler.add(prompt(10, 11))
    assert [sizes(run(scheduler)) for _ in steps] == steps


@pytest.mark.parametrize("policy", ["sarathi", "splitfuse", "flover"])
def test_decode_when_prompts_keep_coming_then_never_paused(policy: str) -> None:
    scheduler = with_decodes(policy, 3)
    answers = list(scheduler.running)
    for token in range(10, 30):
        scheduler.add(prompt(90, token))
        before = [len(sequence.tokens) for sequence in answers]
        run(scheduler)
        assert [len(sequence.tokens) for sequence in answers] == [length + 1 for length in before]


def test_splitfuse_when_prompts_wait_then_steps_are_equal() -> None:
    scheduler = with_decodes("splitfuse", 3)
    for token in range(10, 15):
        scheduler.add(prompt(37 * token % 200 + 20, token))
    totals = []
    while scheduler.waiting:
        totals.append(sum(sizes(run(scheduler))))
    assert len(totals) > 5
    assert set(totals[:-1]) == {BUDGET}


def test_sarathi_when_a_chunk_is_cut_then_it_ends_at_a_block() -> None:
    scheduler = with_decodes("sarathi", 3)
    long = prompt(300, 10)
    scheduler.add(long)
    while long.pending > 1:
        run(scheduler)
        assert long.computed % 32 == 0 or long.pending <= 1


def test_sarathi_when_answers_fill_a_step_then_prompts_progress() -> None:
    scheduler = scheduler_of("sarathi", running=5, budget=5)
    for token in range(5):
        scheduler.add(prompt(2, token))
    while any(sequence.pending > 1 for sequence in [*scheduler.running, *scheduler.waiting]):
        assert run(scheduler).chunks


def test_static_when_the_batch_ends_then_the_next_begins() -> None:
    scheduler = with_decodes("static", 2)
    first, second = scheduler.running
    late = prompt(4, 10)
    scheduler.add(late)
    scheduler.remove(first)
    assert sizes(run(scheduler)) == [1]
    scheduler.remove(second)
    assert sizes(run(scheduler)) == [4]


def test_flover_when_one_ends_in_the_middle_then_one_move() -> None:
    scheduler = with_decodes("flover", 4)
    scheduler.remove(scheduler.running[2])
    step = run(scheduler)
    assert step.moves == [(3, 2)]
    assert sorted(chunk.sequence.blocks[0] for chunk in step.chunks) == [0, 1, 2]


def test_sequences_when_more_than_may_run_then_the_rest_waits() -> None:
    scheduler = scheduler_of("sarathi", running=2)
    for token in range(3):
        scheduler.add(prompt(4, token))
    assert len(run(scheduler).chunks) == 2
    scheduler.remove(scheduler.running[0])
    run(scheduler)
    assert not scheduler.waiting


@pytest.mark.parametrize("policy", POLICIES)
def test_prompts_when_they_report_then_logits_are_bounded(policy: str) -> None:
    """A row of logits per prompt token is a megabyte in large vocabularies: a step has few, and no prompt starves."""
    scheduler = scheduler_of(policy, budget=256)
    prompts = [Sequence([token] * 300, reports_prompt=True) for token in range(3)]
    for each in prompts:
        scheduler.add(each)
    while any(each.pending > 1 for each in prompts):
        step = scheduler.plan()
        assert 0 < sum(chunk.outputs for chunk in step.chunks if chunk.count > 1) <= MAX_REPORTED
        for chunk in step.chunks:
            chunk.sequence.reports_prompt = not chunk.samples  # as after the first token of the answer
            scheduler.commit(chunk, [5] if chunk.samples else [])


def test_prompts_when_they_are_embedded_then_the_budget_is_used() -> None:
    """A row of hidden states is a thousandth of a row of logits."""
    scheduler = scheduler_of("sarathi", budget=256)
    scheduler.add(Sequence([1] * 300, reports_prompt=True, embeds=True))
    assert sizes(run(scheduler)) == [256]
