"""The asynchronous engine: a thread that steps the model, and queues between it and the event loop.

Requests come in through an inbox, and the results of a step go out in one wake-up of the event loop, for any number of
requests. The decoder releases the interpreter while it computes; meanwhile the loop serves HTTP and turns the tokens of
the step before into text (`Answer`). So a stop string is found while the next step runs: the engine's thread learns of
it as of a cancellation, and the token that it may have computed too many is dropped.
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from array import array
from collections.abc import AsyncGenerator, Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from hashlib import blake2b
from pathlib import Path

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
    ToolUse,
)
from headrace.serving.errors import (
    ContextLengthExceeded,
    EngineDied,
    InvalidRequest,
    ModelNotFound,
    Saturated,
    UnsupportedParameter,
)
from headrace.serving.metrics import gauge
from headrace_llm.answer import Answer
from headrace_llm.loading import load_decoder
from headrace_llm.options import EngineOptions
from headrace_llm.request import Request
from headrace_llm.sampling.constraints import ConstraintCompiler, ConstraintMatcher
from headrace_llm.sampling.sampler import Sampler
from headrace_llm.scheduler.core import Scheduler
from headrace_llm.sequence import Sequence
from headrace_llm.speculation import PromptLookup
from headrace_llm.stepper import Result, Stepper, failure
from headrace_models.decoder import Decoder
from headrace_models.model_file import ModelFile
from headrace_models.tokenizer import ModelTokenizer

log = logging.getLogger(__name__)

QUEUE_PER_SLOT = 4
"""Queued requests per running one: enough to keep the batch full; further requests wait in the gateway."""


class LLMEngine:
    """Serves one model. Made by `load_model`; implements `headrace.serving.engine.TextEngine`."""

    def __init__(
        self, decoder: Decoder, tokenizer: ModelTokenizer, scheduler: Scheduler, *, model_len: int, speculation: bool
    ) -> None:
        self.model_len = model_len
        self.capacity = scheduler.max_running * (1 + QUEUE_PER_SLOT)
        self.counters = EngineCounters()
        self.healthy = True
        self.vocabulary = tokenizer.vocabulary
        self.longest_token = tokenizer.longest_token
        self._decoder = decoder
        self._tokenizer = tokenizer
        self._scheduler = scheduler
        self._stepper = Stepper(decoder, scheduler, self.counters)
        self._speculation = speculation
        self._constraints = ConstraintCompiler(tokenizer)
        self._inbox: list[Request] = []
        self._left: list[Request] = []
        """Requests whose client has left, or whose answer has ended by a stop string."""
        self._wake = threading.Condition()
        """Guards the two lists and `_stopping`; the inbox takes nothing once `healthy` is False."""
        self._stopping = False
        self._admitted = 0
        """Admitted requests that have not ended; changed on the event loop only."""
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)

    @classmethod
    def load_model(
        cls,
        file: ModelFile,
        *,
        max_model_len: int,
        max_concurrent: int,
        threads: int | None,
        progress: Progress,
        options: EngineOptions | None = None,
    ) -> LLMEngine:
        """Load the weights and return an engine. Blocks for up to a second; call it in a thread.

        Raises InvalidModel for tensors that contradict the header, and CannotStart if there is not enough memory or
        the options contradict each other.
        """
        options = options or EngineOptions()
        with ThreadPoolExecutor(1) as pool:
            decoder = pool.submit(
                load_decoder,
                file,
                dtype=options.dtype,
                threads=threads or len(os.sched_getaffinity(0)),
                progress=progress,
            )
            return cls.assemble(
                file, decoder.result, max_model_len=max_model_len, max_concurrent=max_concurrent, options=options
            )

    @classmethod
    def assemble(
        cls,
        file: ModelFile,
        decoder: Callable[[], Decoder],
        *,
        max_model_len: int,
        max_concurrent: int,
        options: EngineOptions,
    ) -> LLMEngine:
        """Return an engine with the decoder that `decoder` waits for. Raises what `decoder` raises, and CannotStart."""
        model_len = min(max_model_len, file.config.context)
        if model_len < max_model_len:
            log.warning(
                "maxModelLen is %d, and the model's context %d: prompt and answer together have at most %d tokens",
                max_model_len,
                file.config.context,
                model_len,
            )
        scheduler = options.scheduler(model_len=model_len, max_running=max_concurrent)
        tokenizer = ModelTokenizer(file)
        loaded = decoder()
        loaded.allocate_cache(scheduler.cache.blocks, scheduler.cache.block_tokens)
        return cls(loaded, tokenizer, scheduler, model_len=model_len, speculation=options.speculation)

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
        """Return a parser of an answer to the conversation; None: the answer is content only."""
        return self._tokenizer.parser(chat)

    def tool_constraint(self, tool_use: ToolUse) -> Constraint | None:
        """Return the constraint of an answer that must call a tool; None: it need not."""
        return self._tokenizer.tool_constraint(tool_use)

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

        Raises Saturated, InvalidRequest (a prompt that does not fit), EngineDied, RequestFailed.
        """
        answer = Answer(self._tokenizer, request.stop, cursors=request.cursors, special_tokens=request.special_tokens)
        length = len(request.prompt_tokens) + len(request.answer_tokens)
        self._check(request, length)
        answer.resume(request.answer_tokens)
        self._admitted += 1
        admitted: Request | None = None
        ended = False
        try:
            constraint = await self._compile(request)
            admitted = self._admit(request, answer.ends, constraint)
            while not ended:
                update = await admitted.outbox.get()
                if isinstance(update, HeadraceError):
                    ended = True
                    raise update
                answer.cached_tokens, answer.prompt_logprobs = update.cached_tokens, update.prompt_logprobs
                for index, sampled in enumerate(update.sampled, 1):
                    length += 1
                    try:
                        delta = answer.add(
                            sampled.token,
                            room=self.model_len - length,
                            logprob=sampled.logprob,
                            complete=update.complete and index == len(update.sampled),
                        )
                    except Exception as error:
                        raise failure(error) from error
                    yield delta
                    if delta.finish_reason is not None:
                        ended = True
                        break
        finally:
            self._admitted -= 1
            if admitted is not None:
                admitted.cancelled = not ended
                with self._wake:
                    self._left.append(admitted)
                    self._wake.notify()

    def load(self) -> Load:
        """Return how busy the engine is."""
        cache, running = self._scheduler.cache, len(self._scheduler.running)
        return Load(
            queued=max(0, self._admitted - running),
            running=running,
            kv_tokens_used=cache.used_blocks * cache.block_tokens,
            kv_tokens_total=cache.blocks * cache.block_tokens,
            tokens_per_second=self._stepper.rate if running else 0.0,
            step_milliseconds=self._stepper.step_seconds * 1000,
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
        self._decoder.close()

    def _uncomputed_tokens(self) -> int:
        scheduler = self._scheduler
        sequences = [*scheduler.running, *scheduler.waiting, *(each.sequence for each in self._inbox)]
        return sum(sequence.pending for sequence in sequences)

    async def _compile(self, request: GenerationRequest) -> ConstraintMatcher | None:
        """Return the state of the request's constraint. Raises InvalidRequest."""
        if request.constraint is None:
            return None
        matcher = await asyncio.to_thread(self._constraints.compile, request.constraint)
        for token in request.answer_tokens:
            matcher.advance(token)
        return matcher

    def _admit(self, given: GenerationRequest, ends: frozenset[int], constraint: ConstraintMatcher | None) -> Request:
        try:
            request = self._request(given, ends, constraint)
        except Exception as error:
            raise failure(error) from error
        if self._loop is None:
            self._loop = asyncio.get_running_loop()
            self._thread.start()
        with self._wake:
            if not self.healthy:  # checked again under the lock: the thread no longer reads the inbox
                raise _dead()
            self._inbox.append(request)
            self._wake.notify()
        return request

    def _check(self, request: GenerationRequest, length: int) -> None:
        """Refuse what cannot be computed. `length`: tokens of the prompt and of the answer so far."""
        prompt = request.prompt_tokens
        if not self.healthy:
            raise _dead()
        if not prompt:
            raise InvalidRequest("the prompt is empty", param="prompt")
        tokens = prompt + request.answer_tokens
        if not 0 <= min(tokens) <= max(tokens) < self.vocabulary:
            raise InvalidRequest(f"a token id is not from 0 to {self.vocabulary - 1}", param="prompt")
        if length >= self.model_len:
            raise ContextLengthExceeded(
                f"the prompt has {length} tokens, and the model takes {self.model_len} with the answer",
                param="messages",
                hint="Shorten it, or raise spec.runtime.llm.maxModelLen",
            )
        if self._admitted >= self.capacity:
            raise Saturated(f"{self._admitted} requests are running or waiting, the maximum of this replica")

    def _request(self, given: GenerationRequest, ends: frozenset[int], constraint: ConstraintMatcher | None) -> Request:
        """Return the engine's side of a request. Whatever is wrong with its values raises here."""
        prompt = array("I", given.prompt_tokens).tolist()
        tokens = [*prompt, *given.answer_tokens]
        return Request(
            given=given,
            sequence=Sequence(tokens, salt=_salt(given), reports_prompt=given.prompt_logprobs is not None),
            sampler=Sampler(
                given.sampling,
                vocabulary=self.vocabulary,
                prompt=prompt,
                answered=given.answer_tokens,
                ends=ends,
                min_tokens=given.stop.min_tokens,
                logprobs=given.logprobs,
            ),
            ends=ends,
            longest=min(len(prompt) + given.stop.max_tokens, self.model_len),
            outbox=asyncio.Queue(),
            constraint=constraint,
            lookup=PromptLookup() if self._speculation else None,
        )

    def _run(self) -> None:
        """The engine thread."""
        try:
            while self._take_in():
                self._deliver(self._stepper.step())
        except Exception as error:
            # No other thread can answer the waiting requests; the process reports itself as not alive.
            log.exception("the engine died")
            self._die(EngineDied(f"the engine died: {type(error).__name__}: {error}"))
        else:
            self._die(EngineDied("the engine is stopping"))

    def _take_in(self) -> bool:
        """Take new requests and those that have ended; wait if there is no work. False: stop."""
        with self._wake:
            while not (self._inbox or self._left or self._stepper.requests or self._stopping):
                self._wake.wait()
            arrived, self._inbox = self._inbox, []
            left, self._left = self._left, []
        for request in arrived:
            self._stepper.add(request)
        for request in left:
            self._stepper.remove(request, cancelled=request.cancelled)
        return not self._stopping

    def _deliver(self, results: list[Result]) -> None:
        """Deliver a step's results to the event loop in one wake-up."""

        def put() -> None:
            for result in results:
                result.request.outbox.put_nowait(result.content)

        if results:
            self._on_loop(put)

    def _die(self, error: EngineDied) -> None:
        with self._wake:
            self.healthy = False
            orphans = [*self._stepper.requests.values(), *self._inbox]

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


def _unsupported(param: str) -> UnsupportedParameter:
    return UnsupportedParameter(f"`{param}` is not supported by this engine", param=param, hint="Leave it out")


def _salt(request: GenerationRequest) -> bytes:
    """Return what keeps apart the cached prefixes of tenants, and those of adapters."""
    return blake2b(f"{request.tenant}\0{request.adapter}".encode(), digest_size=16).digest()
