"""The engine's steps: what the scheduler plans is computed by the decoder, sampled, and given to the requests.

No request can stop the engine. Sampling is per request: an error there ends that request. After an error in the shared
computation each request is computed alone (`_forward_each`) to find the one that fails; only an error without any
request is raised. No threads and no clock but for the measurement of steps: `engine` calls it.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from collections.abc import Sequence as Items
from dataclasses import dataclass, replace

from headrace.errors import HeadraceError
from headrace.serving.engine import EngineCounters
from headrace.serving.errors import RequestFailed
from headrace_llm.embedding import EmbeddingRequest
from headrace_llm.request import Request, Update
from headrace_llm.scheduler.core import Chunk, Scheduler
from headrace_llm.sequence import Sequence
from headrace_llm.speculation import MAX_ROWS
from headrace_models.decoder import Batch, Decoder, Floats, Segment

log = logging.getLogger(__name__)

AnyRequest = Request | EmbeddingRequest

RATE_SMOOTHING = 0.2
"""Weight of the newest step in the reported step time and rate."""


@dataclass(frozen=True, slots=True)
class Computed:
    """A computed chunk."""

    chunk: Chunk
    rows: Floats
    """Logits, [chunk.outputs, vocabulary]; of an embedding, hidden states, [chunk.outputs, width]."""
    likeliest: list[int]
    """Index of the highest value of each row: of logits, the likeliest token."""


@dataclass(frozen=True, slots=True)
class Result:
    """What a step has for a request: an update, or the error that ends it."""

    request: AnyRequest
    content: Update | HeadraceError


class Stepper:
    """The admitted requests and their steps. Used by one thread; counters and rates may be read by others."""

    def __init__(self, decoder: Decoder, scheduler: Scheduler, counters: EngineCounters) -> None:
        self.requests: dict[Sequence, AnyRequest] = {}
        self.step_seconds = 0.0
        self.rate = 0.0
        """Generated tokens per second."""
        self._decoder = decoder
        self._scheduler = scheduler
        self._counters = counters

    def add(self, request: AnyRequest) -> None:
        """Queue a request."""
        self.requests[request.sequence] = request
        self._scheduler.add(request.sequence)
        self._counters.prompt_tokens += request.prompt_length

    def remove(self, request: AnyRequest, *, cancelled: bool) -> None:
        """Forget a request, if it has not ended in a step before."""
        if self.requests.pop(request.sequence, None) is not None:
            self._scheduler.remove(request.sequence)
            if cancelled:
                self._counters.cancelled += 1
            else:
                self._counters.finished += 1

    def step(self) -> list[Result]:
        """Compute the next step."""
        started = time.perf_counter()
        self._draft()
        step = self._scheduler.plan()
        if step.moves:
            self._decoder.copy_blocks(step.moves)
        if not step.chunks:
            return []
        results: list[Result] = []
        try:
            outputs = self._forward(step.chunks)
        except Exception:
            log.exception("a step of %d requests failed; computing each request alone", len(step.chunks))
            outputs, results = self._forward_each(step.chunks)
        sampled = 0
        for computed in outputs:
            request = self.requests[computed.chunk.sequence]
            try:
                update = self._advance(request, computed)
            except Exception as error:  # noqa: BLE001 - any error here is this request's
                results.append(self._failed(request, error))
            else:
                if update is not None:
                    results.append(Result(request, update))
                    sampled += len(update.sampled)
        self._measure(time.perf_counter() - started, step.chunks, sampled)
        return results

    def _draft(self) -> None:
        """Give the running answers drafts, while a step has few rows."""
        decoding = [sequence for sequence in self._scheduler.running if sequence.decodes]
        left = MAX_ROWS - len(decoding)
        for sequence in decoding:
            request = self.requests[sequence]
            sequence.drafts = request.drafts(left, len(decoding))
            left -= len(sequence.drafts)

    def _forward(self, chunks: Items[Chunk]) -> list[Computed]:
        """Compute a batch."""
        chunks = sorted(chunks, key=lambda chunk: chunk.sequence.adapter)  # rows of an adapter are computed together
        outputs: list[Computed] = []
        for kind, forward in ((EmbeddingRequest, self._decoder.embed), (Request, self._decoder.step)):
            part = [chunk for chunk in chunks if isinstance(self.requests[chunk.sequence], kind)]
            outputs += self._compute(part, forward) if part else []
        return outputs

    @staticmethod
    def _compute(chunks: Items[Chunk], forward: Callable[[Batch], Floats]) -> list[Computed]:
        """Compute chunks that need the same.

        One call finds the likeliest tokens of all rows: numpy releases the interpreter in each call, and the event loop
        takes it, which writes the last step's tokens: a call per row would wait for it in each row.
        """
        tokens: list[int] = []
        wanted: list[int] = []
        segments: list[Segment] = []
        for chunk in chunks:
            tokens += chunk.tokens
            wanted += range(len(tokens) - chunk.outputs, len(tokens))
            segments.append(Segment(chunk.sequence.blocks, chunk.start, chunk.count, chunk.sequence.adapter))
        computed = forward(Batch(tokens, segments, wanted))
        likeliest: list[int] = computed.argmax(-1).tolist()
        outputs: list[Computed] = []
        first = 0
        for chunk in chunks:
            rows = slice(first, first + chunk.outputs)
            outputs.append(Computed(chunk, computed[rows], likeliest[rows]))
            first += chunk.outputs
        return outputs

    def _forward_each(self, chunks: Items[Chunk]) -> tuple[list[Computed], list[Result]]:
        """Compute each chunk of a batch that failed alone; return these, and the requests that fail by themselves.

        Correct, because a chunk writes to blocks of its own, to the positions that the failed attempt wrote. If all
        chunks fail, a probe token of no request is computed; if that raises too, the engine itself has failed, and its
        error is raised.
        """
        outputs: list[Computed] = []
        faults: list[tuple[Chunk, Exception]] = []
        for chunk in chunks:
            try:
                (alone,) = self._forward([chunk])
                outputs.append(replace(alone, rows=alone.rows.copy()))
            except Exception as error:  # noqa: BLE001 - kept, and delivered to the request below
                faults.append((chunk, error))
        if not outputs:
            blocks = chunks[0].sequence.blocks  # of a request that has failed and is ended below
            self._decoder.step(Batch([0], [Segment(blocks, 0, 1)], [0]))
        return outputs, [self._failed(self.requests[chunk.sequence], error) for chunk, error in faults]

    def _advance(self, request: AnyRequest, computed: Computed) -> Update | None:
        """Sample after a computed chunk; return what it adds to the answer, None within a prompt."""
        chunk = computed.chunk
        if isinstance(request, EmbeddingRequest):
            return self._embed(request, chunk, computed.rows)
        if request.sequence.reports_prompt:
            request.score_prompt(computed.rows, chunk.start)
        if not chunk.samples:
            self._scheduler.commit(chunk, [])
            return None
        drafts = request.sequence.drafts[: chunk.drafts]
        new = slice(-1 - chunk.drafts, None)
        sampled, ended = request.sample(computed.rows[new], computed.likeliest[new], drafts)
        request.sequence.reports_prompt = False
        self._scheduler.commit(chunk, [each.token for each in sampled])
        if drafts and request.lookup is not None:
            accepted = sum(each.token == draft for each, draft in zip(sampled, drafts, strict=False))
            request.lookup.verified(len(drafts), accepted, len(request.sequence.tokens))
            self._counters.drafted += len(drafts)
            self._counters.accepted += accepted
        if ended:
            self.remove(request, cancelled=False)
        cached = min(request.sequence.cached or 0, len(request.given.prompt_tokens))
        scored, request.prompt_logprobs = tuple(request.prompt_logprobs), []
        return Update(tuple(sampled), request.complete, cached, scored)

    def _embed(self, request: EmbeddingRequest, chunk: Chunk, hidden: Floats) -> Update | None:
        request.pool(hidden, chunk.start)
        self._scheduler.commit(chunk, [])
        if not chunk.samples:
            return None
        self.remove(request, cancelled=False)
        return Update((), complete=True, cached_tokens=0, prompt_logprobs=())

    def _failed(self, request: AnyRequest, error: Exception) -> Result:
        """End a request that the engine cannot compute; other requests continue."""
        del self.requests[request.sequence]
        self._scheduler.remove(request.sequence)
        return Result(request, failure(error))

    def _measure(self, seconds: float, chunks: Items[Chunk], sampled: int) -> None:
        counters, cache = self._counters, self._scheduler.cache.counters
        counters.steps += 1
        counters.step_tokens += sum(chunk.count for chunk in chunks)
        counters.adapter_tokens += sum(chunk.count for chunk in chunks if chunk.sequence.adapter)
        counters.generated_tokens += sampled
        counters.prefix_queries, counters.prefix_hits = cache.prefix_queries, cache.prefix_hits
        counters.preemptions = self._scheduler.preemptions
        self.step_seconds += RATE_SMOOTHING * (seconds - self.step_seconds)
        self.rate += RATE_SMOOTHING * (sampled / seconds - self.rate)


def failure(error: Exception) -> HeadraceError:
    """Log an error of one request's own and return what its client gets."""
    log.error("a request failed in the engine and was ended; the others continue", exc_info=error)
    if isinstance(error, HeadraceError):
        return error
    return RequestFailed(f"the engine failed on this request ({type(error).__name__}); see its log")
