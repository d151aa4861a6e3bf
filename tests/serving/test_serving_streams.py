"""Several answers as one stream: in whatever order they come, and ended together."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

import pytest

from headrace.serving.engine import Delta, FinishReason
from headrace.serving.errors import Saturated
from headrace.serving.openai.streams import Step, merged


class Script:
    """Answers whose steps the test releases one by one."""

    def __init__(self, count: int) -> None:
        self.queues: list[asyncio.Queue[Delta]] = [asyncio.Queue() for _ in range(count)]
        self.closed: list[int] = []

    async def answer(self, index: int) -> AsyncGenerator[Delta, None]:
        finished = False
        try:
            while not finished:
                delta = await self.queues[index].get()
                finished = delta.finish_reason is not None
                yield delta
        finally:
            self.closed.append(index)

    def answers(self) -> list[AsyncGenerator[Delta, None]]:
        return [self.answer(index) for index in range(len(self.queues))]


def delta(text: str, *, last: bool = False) -> Delta:
    return Delta(text, (1,), FinishReason.STOP if last else None)


@pytest.mark.parametrize("count", [1, 3])
async def test_steps_in_any_order_then_each_is_of_its_answer(count: int) -> None:
    script = Script(count)
    order = [*reversed(range(count)), *range(count)]
    steps = []
    async with asyncio.timeout(10), aclosing(merged(script.answers())) as stream:
        for place, index in enumerate(order):
            released = delta(str(place), last=place >= count)
            script.queues[index].put_nowait(released)
            steps.append(await anext(stream))
            assert steps[-1] == Step(index, released)
        assert [step async for step in stream] == []

    assert sorted(script.closed) == list(range(count))


@pytest.mark.parametrize("count", [1, 3])
async def test_stream_when_it_is_closed_then_every_answer_is(count: int) -> None:
    script = Script(count)
    stream = merged(script.answers())
    script.queues[0].put_nowait(delta("a"))
    async with asyncio.timeout(10):
        await anext(stream)
        await stream.aclose()

    assert sorted(script.closed) == list(range(count))


@pytest.mark.parametrize("count", [1, 3])
async def test_reader_when_it_is_cancelled_then_every_answer_is_closed(count: int) -> None:
    script = Script(count)

    async def read() -> None:
        async with aclosing(merged(script.answers())) as stream:
            async for step in stream:
                seen.set_result(step)

    seen: asyncio.Future[Step] = asyncio.get_running_loop().create_future()
    script.queues[0].put_nowait(delta("a"))
    async with asyncio.timeout(10):
        reader = asyncio.create_task(read())
        await seen
        reader.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reader

    assert sorted(script.closed) == list(range(count))


async def test_answer_when_one_is_refused_then_no_step_is_yielded() -> None:
    async def refused() -> AsyncGenerator[Delta, None]:
        raise Saturated("full")
        yield  # makes it a generator

    script = Script(3)
    script.queues[0].put_nowait(delta("a"))
    async with asyncio.timeout(10), aclosing(merged([*script.answers(), refused(), refused()])) as stream:
        with pytest.raises(Saturated):
            await anext(stream)

    assert sorted(script.closed) == [0, 1, 2]
