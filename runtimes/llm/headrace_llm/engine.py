"""The asynchronous engine: a thread that steps the model, and queues between it and the event loop.

Requests come in through an inbox, and the results of a step go out in one wake-up of the event loop, for any number of
requests. torch releases the interpreter while it computes, so the loop serves HTTP meanwhile.

No request can stop the engine. Sampling and decoding run per request: an error there ends that request. After an error
in the shared computation each request is computed alone (`_forward_each`) to find the one that fails; only an error
without any request stops the engine.
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
import time
from array import array
from collections.abc import AsyncGenerator, Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch
from prometheus_client.core import Metric

from headrace.errors import HeadraceError
from headrace.events.messages import UNCOMPUTED_TOKENS, Load
from headrace.metrics.runtime import LLM_UNCOMPUTED_TOKENS
from headrace.serving.engine import (
    Chat,
    Constraint,
    Delta,
    EngineCounters,
    GenerationRequest,
    MessageParser,
    Progress,
    Sampling,
    ToolUse,
)
from headrace.serving.errors import (
    ContextLengthExceeded,
    EngineDied,
    InvalidRequest,
    ModelNotFound,
    RequestFailed,
    Saturated,
    UnsupportedParameter,
)
from headrace.serving.metrics import gauge
from headrace_llm.answer import Answer
from headrace_llm.sampler import generator_of, sample
from headrace_llm.scheduler import Chunk, Scheduler, Sequence
from headrace_models.decoder import Batch, Decoder, Segment
from headrace_models.model_file import ModelFile
from headrace_models.tokenizer import ModelTokenizer
from headrace_models.torch_decoder import TorchDecoder

log = logging.getLogger(__name__)

TOKEN_BUDGET = 256
"""Tokens per step. Prefill on two cores is equally fast from 128 on; more would only delay running answers."""
QUEUE_PER_SLOT = 4
"""Queued requests per slot: enough to keep the slots full; further requests wait in the gateway."""
RATE_SMOOTHING = 0.2
"""Weight of the newest step in the reported step time and rate."""


@dataclass(slots=True, eq=False)
class _Request:
    """A request that the engine has admitted."""

    tokens: list[int]
    """Of prompt and answer."""
    sampling: Sampling
    sequence: Sequence
    answer: Answer
    generator: torch.Generator | None
    outbox: asyncio.Queue[Delta | HeadraceError]


_Result = tuple[_Request, Delta | HeadraceError]
"""The result of a step for a request: a delta, or the error that ends it."""


class LLMEngine:
    """Serves one model. Made by `load_model`; implements `headrace.serving.engine.TextEngine`."""

    def __init__(
        self, decoder: Decoder, tokenizer: ModelTokenizer, *, model_len: int, slots: int, threads: int
    ) -> None:
        self.model_len = model_len
        self.capacity = slots * (1 + QUEUE_PER_SLOT)
        self.counters = EngineCounters()
        self.healthy = True
        self.vocabulary = tokenizer.vocabulary
        self.longest_token = tokenizer.longest_token
        self._decoder = decoder
        self._tokenizer = tokenizer
        self._slots = slots
        self._threads = threads
        self._scheduler = Scheduler(slots, TOKEN_BUDGET)
        self._requests: dict[Sequence, _Request] = {}
        self._inbox: list[_Request] = []
        self._cancelled: list[_Request] = []
        self._wake = threading.Condition()
        """Guards the inbox, the cancellations and `_stopping`; the inbox takes nothing once `healthy` is False."""
        self._stopping = False
        self._admitted = 0
        """Admitted requests that have not ended; changed on the event loop only."""
        self._step_seconds = 0.0
        self._rate = 0.0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)

    @classmethod
    def load_model(
        cls, file: ModelFile, *, max_model_len: int, max_concurrent: int, threads: int | None, progress: Progress
    ) -> LLMEngine:
        """Load the weights and return an engine. Blocks for about a second; call it in a thread.

        Raises InvalidModel for tensors that contradict the header, and CannotStart if there is not enough memory.
        """
        threads = threads or len(os.sched_getaffinity(0))
        torch.set_num_threads(threads)
        model_len = min(max_model_len, file.config.context)
        if model_len < max_model_len:
            log.warning(
                "maxModelLen is %d, and the model's context %d: prompt and answer together have at most %d tokens",
                max_model_len,
                file.config.context,
                model_len,
            )
        with ThreadPoolExecutor(1) as pool:
            tokenizer = pool.submit(ModelTokenizer, file)
            decoder = TorchDecoder(
                file.gguf, file.config, threads=threads, progress=lambda percent: progress("loading-weights", percent)
            )
            decoder.allocate_cache(max_concurrent, model_len)
            return cls(decoder, tokenizer.result(), model_len=model_len, slots=max_concurrent, threads=threads)

    def encode(self, text: str) -> list[int]:
        """Return the token ids of `text`."""
        return self._tokenizer.encode(text)

    def encode_chat(self, chat: Chat) -> list[int]:
        """Return the token ids of a conversation, ready for the answer."""
        return self._tokenizer.encode_chat(chat)

    def decode(self, ids: list[int]) -> str:
        """Return the text of token ids."""
        return self._tokenizer.decode(ids)

    def parser(self, chat: Chat) -> MessageParser | None:
        """Return None: the whole text of an answer is its content."""
        if chat.template_options:
            raise _unsupported("chat_template_kwargs")
        if any(turn.tool_calls or turn.tool_call_id or turn.reasoning for turn in chat.messages):
            raise _unsupported("messages")
        return None

    def tool_constraint(self, tool_use: ToolUse) -> Constraint | None:
        """Reject tools."""
        del tool_use
        raise _unsupported("tools")

    async def embed(self, prompts: Iterable[tuple[int, ...]]) -> list[array[float]]:
        """Reject embeddings."""
        del prompts
        raise _unsupported("input")

    async def load_adapter(self, name: str, path: Path) -> None:
        """Reject adapters."""
        del name, path
        raise _unsupported("path")

    async def unload_adapter(self, name: str) -> None:
        """Reject the name: no adapter is loaded."""
        raise ModelNotFound(f"the adapter {name!r} is not loaded", param="name")

    def adapters(self) -> tuple[str, ...]:
        """Return no names."""
        return ()

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[Delta, None]:
        """Yield deltas until one has a finish reason; closing the iterator cancels within one step.

        Raises Saturated, InvalidRequest (a prompt that does not fit), EngineDied.
        """
        admitted = self._admit(request)
        finished = False
        try:
            while not finished:
                delta = await admitted.outbox.get()
                if isinstance(delta, HeadraceError):
                    finished = True
                    raise delta
                finished = delta.finish_reason is not None
                yield delta
        finally:
            self._admitted -= 1
            if not finished:
                with self._wake:
                    self._cancelled.append(admitted)
                    self._wake.notify()

    def load(self) -> Load:
        """Return how busy the engine is."""
        running = list(self._scheduler.running)
        return Load(
            queued=max(0, self._admitted - len(running)),
            running=len(running),
            kv_tokens_used=sum(sequence.computed for sequence in running),
            kv_tokens_total=self._slots * self.model_len,
            tokens_per_second=self._rate if running else 0.0,
            step_milliseconds=self._step_seconds * 1000,
        ).with_extra({UNCOMPUTED_TOKENS: self._uncomputed_tokens()})

    def metrics(self, model: str) -> Iterable[Metric]:
        """Return the engine's own metrics."""
        yield gauge(
            model,
            LLM_UNCOMPUTED_TOKENS,
            "Tokens of admitted requests that are not computed yet: a new prompt is computed after them.",
            self._uncomputed_tokens(),
        )

    async def close(self) -> None:
        """Stop the thread after its present step; requests that still run end with EngineDied."""
        with self._wake:
            self._stopping = True
            self._wake.notify()
        if self._thread.is_alive():
            await asyncio.to_thread(self._thread.join)

    def _uncomputed_tokens(self) -> int:
        sequences = [*self._scheduler.running, *self._scheduler.waiting, *(each.sequence for each in self._inbox)]
        return sum(sequence.length - sequence.computed for sequence in sequences)

    def _admit(self, request: GenerationRequest) -> _Request:
        prompt = request.prompt_tokens
        if not self.healthy:
            raise _dead()
        _refuse_unsupported(request)
        if not prompt:
            raise InvalidRequest("the prompt is empty", param="prompt")
        if not 0 <= min(prompt) <= max(prompt) < self.vocabulary:
            raise InvalidRequest(f"a token id is not from 0 to {self.vocabulary - 1}", param="prompt")
        if len(prompt) >= self.model_len:
            raise ContextLengthExceeded(
                f"the prompt has {len(prompt)} tokens, and the model takes {self.model_len} with the answer",
                param="messages",
                hint="Shorten it, or raise spec.runtime.llm.maxModelLen",
            )
        if self._admitted >= self.capacity:
            raise Saturated(f"{self._admitted} requests are running or waiting, the maximum of this replica")
        admitted = _Request(
            tokens=list(prompt),
            sampling=request.sampling,
            sequence=Sequence(length=len(prompt)),
            answer=Answer(self._tokenizer, request.stop, cursors=request.cursors),
            generator=generator_of(request.sampling),
            outbox=asyncio.Queue(),  # bounded by the answer's length
        )
        if self._loop is None:
            self._loop = asyncio.get_running_loop()
            self._thread.start()
        with self._wake:
            if not self.healthy:  # checked again under the lock: the thread no longer reads the inbox
                raise _dead()
            self._inbox.append(admitted)
            self._wake.notify()
        self._admitted += 1
        return admitted

    def _run(self) -> None:
        """The engine thread."""
        torch.set_num_threads(self._threads)  # a setting per calling thread
        try:
            while self._take_in():
                self._step()
        except Exception as error:
            # No other thread can answer the waiting requests; the process reports itself as not alive.
            log.exception("the engine died")
            self._die(EngineDied(f"the engine died: {type(error).__name__}: {error}"))
        else:
            self._die(EngineDied("the engine is stopping"))

    def _take_in(self) -> bool:
        """Take new requests and cancellations; wait if there is no work. False: stop."""
        with self._wake:
            while not (self._inbox or self._cancelled or self._requests or self._stopping):
                self._wake.wait()
            arrived, self._inbox = self._inbox, []
            cancelled, self._cancelled = self._cancelled, []
        for request in arrived:
            self._requests[request.sequence] = request
            self._scheduler.add(request.sequence)
            self.counters.prompt_tokens += len(request.tokens)
        for request in cancelled:
            if self._requests.pop(request.sequence, None) is not None:
                self._scheduler.remove(request.sequence)
                self.counters.cancelled += 1
        return not self._stopping

    def _step(self) -> None:
        chunks = self._scheduler.plan()
        if not chunks:
            return
        started = time.perf_counter()
        results: list[_Result] = []
        try:
            logits = self._forward(chunks)
        except Exception:
            log.exception("a step of %d requests failed; computing each request alone", len(chunks))
            logits, results = self._forward_each(chunks)
        for request, row in logits.items():
            try:
                delta = self._advance(request, sample(row, request.sampling, request.generator))
            except Exception as error:  # noqa: BLE001 - any error here is this request's
                results.append((request, self._failed(request, error)))
            else:
                results.append((request, delta))
        self._deliver(results)
        self._measure(time.perf_counter() - started, chunks, len(logits))

    def _forward(self, chunks: list[Chunk]) -> dict[_Request, torch.Tensor]:
        """Compute a batch; return the logits, [vocabulary], of each request that gets a token."""
        tokens: list[int] = []
        wanted: list[int] = []
        for chunk in chunks:
            tokens += self._requests[chunk.sequence].tokens[chunk.start : chunk.start + chunk.count]
            if chunk.samples:
                wanted.append(len(tokens) - 1)
        segments = [Segment((_slot(chunk.sequence),), chunk.start, chunk.count) for chunk in chunks]
        logits = torch.from_numpy(self._decoder.step(Batch(tokens, segments, wanted)))
        sampling = [self._requests[chunk.sequence] for chunk in chunks if chunk.samples]
        return dict(zip(sampling, logits, strict=True))

    def _forward_each(self, chunks: list[Chunk]) -> tuple[dict[_Request, torch.Tensor], list[_Result]]:
        """Compute each chunk of a batch that failed alone; return the logits, and the requests that fail by themselves.

        Correct, because a chunk writes to its own slot, to the positions that the failed attempt wrote. If all chunks
        fail, a probe token of no request is computed; if that raises too, the engine itself has failed, and its error
        is raised.
        """
        logits: dict[_Request, torch.Tensor] = {}
        faults: list[tuple[Chunk, Exception]] = []
        for chunk in chunks:
            try:
                logits |= self._forward([chunk])
            except Exception as error:  # noqa: BLE001 - kept, and delivered to the request below
                faults.append((chunk, error))
        if len(faults) == len(chunks):
            probe = Segment((_slot(chunks[0].sequence),), 0, 1)  # a slot that is given back now
            self._decoder.step(Batch([0], [probe], [0]))
        requests = [(self._requests[chunk.sequence], error) for chunk, error in faults]
        return logits, [(request, self._failed(request, error)) for request, error in requests]

    def _advance(self, request: _Request, token: int) -> Delta:
        request.tokens.append(token)
        request.sequence.length += 1
        delta = request.answer.add(token, room=self.model_len - len(request.tokens))
        if delta.finish_reason is not None:
            self._forget(request)
            self.counters.finished += 1
        return delta

    def _failed(self, request: _Request, error: Exception) -> RequestFailed:
        """End a request that the engine cannot compute; other requests continue."""
        log.error("a request failed in the engine and was ended; the others continue", exc_info=error)
        self._forget(request)
        return RequestFailed(f"the engine failed on this request ({type(error).__name__}); see its log")

    def _forget(self, request: _Request) -> None:
        del self._requests[request.sequence]
        self._scheduler.remove(request.sequence)

    def _measure(self, seconds: float, chunks: list[Chunk], sampled: int) -> None:
        self.counters.steps += 1
        self.counters.step_tokens += sum(chunk.count for chunk in chunks)
        self.counters.generated_tokens += sampled
        self._step_seconds += RATE_SMOOTHING * (seconds - self._step_seconds)
        self._rate += RATE_SMOOTHING * (sampled / seconds - self._rate)

    def _deliver(self, results: list[_Result]) -> None:
        """Deliver a step's results to the event loop in one wake-up."""

        def put() -> None:
            for request, result in results:
                request.outbox.put_nowait(result)

        self._on_loop(put)

    def _die(self, error: EngineDied) -> None:
        with self._wake:
            self.healthy = False
            orphans = [*self._requests.values(), *self._inbox]

        def put() -> None:
            for request in orphans:
                request.outbox.put_nowait(error)

        self._on_loop(put)

    def _on_loop(self, callback: Callable[[], None]) -> None:
        assert self._loop is not None
        try:
            self._loop.call_soon_threadsafe(callback)
        except RuntimeError:
            log.debug("the event loop is closed; the results of this step are dropped")


def _dead() -> EngineDied:
    return EngineDied("the engine has died", hint="The replica is being restarted")


def _slot(sequence: Sequence) -> int:
    assert sequence.slot is not None, "the scheduler plans only what has a slot"
    return sequence.slot


def _unsupported(param: str) -> UnsupportedParameter:
    return UnsupportedParameter(f"`{param}` is not supported by this engine", param=param, hint="Leave it out")


def _refuse_unsupported(request: GenerationRequest) -> None:
    """Raise UnsupportedParameter for what would change the answer and is not computed."""
    sampling, stop = request.sampling, request.stop
    asked = {
        "min_p": sampling.min_p != 0,
        "presence_penalty": sampling.presence_penalty != 0,
        "frequency_penalty": sampling.frequency_penalty != 0,
        "repetition_penalty": sampling.repetition_penalty != 1,
        "logit_bias": bool(sampling.logit_bias),
        "min_tokens": stop.min_tokens > 0,
        "include_stop_str_in_output": stop.include_string,
        "logprobs": request.logprobs is not None or request.prompt_logprobs is not None,
    }
    if request.constraint is not None:
        raise _unsupported(request.constraint.param)
    for param, present in asked.items():
        if present:
            raise _unsupported(param)
