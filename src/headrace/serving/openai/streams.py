"""Merges several answers of an engine into one stream."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass

from headrace.serving.engine import Delta


@dataclass(frozen=True, slots=True)
class Step:
    """The delta of one answer in one step."""

    index: int
    delta: Delta


async def merged(answers: Sequence[AsyncGenerator[Delta, None]]) -> AsyncGenerator[Step, None]:
    """Yield the steps of all answers as they arrive, until each has its finish reason.

    The answers begin together, and an exception in one of them ends all: a request is served completely or not at all.
    Closing the iterator closes them.
    """
    async with AsyncExitStack() as stack:
        for answer in answers:
            await stack.enter_async_context(aclosing(answer))
        if len(answers) == 1:  # the common case, without a task per token
            async for delta in answers[0]:
                yield Step(0, delta)
            return
        running = {_next(answer): index for index, answer in enumerate(answers)}
        try:
            while running:
                done, _ = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
                steps = [Step(running.pop(task), task.result()) for task in done]
                for step in steps:
                    if step.delta.finish_reason is None:
                        running[_next(answers[step.index])] = step.index
                for step in steps:
                    yield step
        finally:
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)


def _next(answer: AsyncGenerator[Delta, None]) -> asyncio.Task[Delta]:
    return asyncio.create_task(_step(answer))


async def _step(answer: AsyncGenerator[Delta, None]) -> Delta:
    return await anext(answer)
