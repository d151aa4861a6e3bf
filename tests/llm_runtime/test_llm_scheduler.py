"""The step scheduler: answers always fit the budget, a slot belongs to one, first come is first served."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from headrace_llm.scheduler import Scheduler, Sequence


def test_plan_when_a_long_prompt_comes_then_decodes_go_first() -> None:
    scheduler = Scheduler(slots=4, token_budget=8)
    running, long = Sequence(length=3), Sequence(length=100)
    scheduler.add(running)
    scheduler.plan()
    running.length += 1
    scheduler.add(long)
    first, second = scheduler.plan()
    assert (first.sequence, first.count, first.samples) == (running, 1, True)
    assert (second.sequence, second.count, second.samples) == (long, 7, False)


def test_plan_when_decodes_exceed_the_budget_then_all_step() -> None:
    scheduler = Scheduler(slots=6, token_budget=2)
    for _ in range(6):
        scheduler.add(Sequence(length=1))
    assert len(scheduler.plan()) == 6


def test_sequence_when_removed_then_its_slot_serves_the_next() -> None:
    scheduler = Scheduler(slots=1, token_budget=8)
    first, second = Sequence(length=2), Sequence(length=2)
    scheduler.add(first)
    scheduler.add(second)
    scheduler.plan()
    assert second.slot is None
    scheduler.remove(first)
    scheduler.plan()
    assert second.slot == 0


@settings(max_examples=150, deadline=None)
@given(data=st.data(), slots=st.integers(1, 5), budget=st.integers(1, 20))
def test_scheduler_when_requests_come_and_go_then_consistent(data: st.DataObject, slots: int, budget: int) -> None:
    """Slots are distinct, steps are within the budget or one token each, tokens are computed once and in order."""
    scheduler = Scheduler(slots=slots, token_budget=budget)
    arrived: list[Sequence] = []
    for _ in range(data.draw(st.integers(1, 40))):
        match data.draw(st.sampled_from(["arrive", "step", "step", "leave"])):
            case "arrive":
                arrived.append(Sequence(length=data.draw(st.integers(1, 30))))
                scheduler.add(arrived[-1])
            case "leave" if arrived:
                scheduler.remove(arrived.pop(data.draw(st.integers(0, len(arrived) - 1))))
            case "step":
                before = {id(sequence): sequence.computed for sequence in scheduler.running}
                chunks = scheduler.plan()
                total = sum(chunk.count for chunk in chunks)
                assert total <= max(budget, len(scheduler.running))
                for chunk in chunks:
                    assert chunk.start == before.get(id(chunk.sequence), 0)
                    if chunk.samples:
                        chunk.sequence.length += 1
            case _:
                pass
        taken = [sequence.slot for sequence in scheduler.running]
        assert len(set(taken)) == len(taken) <= slots
        assert all(sequence.slot is None for sequence in scheduler.waiting)
        assert all(sequence.computed <= sequence.length for sequence in scheduler.running)
        waiting = [arrived.index(sequence) for sequence in scheduler.waiting]
        assert waiting == sorted(waiting)
