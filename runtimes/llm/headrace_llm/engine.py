"""The asynchronous engine: what the serving shell calls, on the event loop.

A thread steps the model (`thread.EngineThread`). The decoder releases the interpreter while it computes; meanwhile the
loop serves HTTP and turns the tokens of the step before into text (`Answer`). So a stop string is found while the next
step runs: the engine's thread learns of it as of a cancellation, and the token that it may have computed too many is
dropped.
"""

from __future__ import annotations

import asyncio
import logging
import os
from array import array
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from hashlib import blake2b
from pathlib import Path
from typing import Any, TypeVar

from prometheus_client.core import GaugeMetricFamily, Metric

from headrace.errors import HeadraceError
from headrace.events.messages import UNCOMPUTED_TOKENS, Load
from headrace.metrics.runtime import LLM_KERNELS, LLM_UNCOMPUTED_TOKENS, MODEL_LABEL
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
    InvalidRequest,
    Saturated,
)
from headrace.serving.metrics import counter, gauge
from headrace.store.client import Store
from headrace_llm.adapters import EngineAdapters, LoadedAdapter
from headrace_llm.answer import Answer
from headrace_llm.embedding import EmbeddingRequest
from headrace_llm.loading import LoadedDecoder, load_decoder
from headrace_llm.options import EngineOptions
from headrace_llm.request import Request
from headrace_llm.sampling.constraints import ConstraintCompiler, ConstraintMatcher
from headrace_llm.sampling.sampler import Sampler
from headrace_llm.scheduler.core import Scheduler
from headrace_llm.sequence import Sequence
from headrace_llm.speculation import PromptLookup
from headrace_llm.stepper import Stepper, failure
from headrace_llm.thread import EngineThread, dead
from headrace_models.decoder import Decoder
from headrace_models.model_file import ModelFile
from headrace_models.tokenizer import ModelTokenizer

log = logging.getLogger(__name__)

SomeRequest = TypeVar("SomeRequest", Request, EmbeddingRequest)

QUEUE_PER_SLOT = 4
"""Queued requests per running one: enough to keep the batch full; further requests wait in the gateway."""


class LLMEngine:
    """Serves one model. Made by `load_model`; implements `headrace.serving.engine.TextEngine`."""

    def __init__(
        self,
        decoder: Decoder,
        tokenizer: ModelTokenizer,
        scheduler: Scheduler,
        *,
        model_len: int,
        speculation: bool,
        store: Store | None = None,
    ) -> None:
        self.model_len = model_len
        self.capacity = scheduler.max_running * (1 + QUEUE_PER_SLOT)
        self.counters = EngineCounters()
        self.vocabulary = tokenizer.vocabulary
        self.longest_token = tokenizer.longest_token
        self._decoder = decoder
        self._store = store
        self._tokenizer = tokenizer
        self._scheduler = scheduler
        self._stepper = Stepper(decoder, scheduler, self.counters)
        self._speculation = speculation
        self._thread = EngineThread(self._stepper, decoder)
        self._adapters = EngineAdapters(decoder.config, self._thread.set_adapter)
        self._constraints = ConstraintCompiler(tokenizer)
        self._admitted = 0
        """Admitted requests that have not ended; changed on the event loop only."""

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
        store: Store | None = None,
    ) -> LLMEngine:
        """Load the weights and return an engine. Blocks for up to a second; call it in a thread.

        With a `store`, the weights are kept in it beyond the life of this process. It belongs to the engine.

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
                store=store,
            )
            return cls.assemble(
                file,
                lambda: LoadedDecoder(decoder.result(), store),
                max_model_len=max_model_len,
                max_concurrent=max_concurrent,
                options=options,
            )

    @classmethod
    def assemble(
        cls,
        file: ModelFile,
        decoder: Callable[[], LoadedDecoder],
        *,
        max_model_len: int,
        max_concurrent: int,
        options: EngineOptions,
        adapters: Mapping[str, Path] | None = None,
    ) -> LLMEngine:
        """Return an engine with the decoder that `decoder` waits for. Raises its errors, CannotStart, InvalidModel."""
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
        loaded.decoder.allocate_cache(scheduler.cache.blocks, scheduler.cache.block_tokens)
        engine = cls(
            loaded.decoder,
            tokenizer,
            scheduler,
            model_len=model_len,
            speculation=options.speculation,
            store=loaded.store,
        )
        engine._adapters.load_at_start(adapters or {}, loaded.decoder)
        return engine

    @property
    def healthy(self) -> bool:
        """Whether it can serve requests."""
        return self._thread.healthy

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

    def tool_constraint(self, tool_use: ToolUse, template_options: Mapping[str, Any]) -> Constraint | None:
        """Return the constraint of an answer that must call a tool; None: it need not."""
        return self._tokenizer.tool_constraint(tool_use, template_options)

    async def embed(self, prompts: Iterable[tuple[int, ...]]) -> list[array[float]]:
        """Return one vector per prompt: [width] of type code "f", of length 1.

        Pooled as the model's file says, the mean by default. The prompts share the batch with running answers; they
        count as one request, with as many prompts in the batch as there may be requests.

        Raises Saturated, InvalidRequest (a prompt that does not fit), EngineDied, RequestFailed.
        """
        prompts = list(prompts)
        for prompt in prompts:
            self._check(prompt, longest=self.model_len, param="input")
        room = asyncio.Semaphore(self._scheduler.max_running)
        self._admitted += 1
        try:
            async with asyncio.TaskGroup() as tasks:
                vectors = [tasks.create_task(self._embed(prompt, room)) for prompt in prompts]
        except* HeadraceError as errors:
            raise errors.exceptions[0] from None
        finally:
            self._admitted -= 1
        return [vector.result() for vector in vectors]

    async def load_adapter(self, name: str, path: Path) -> None:
        """Load a LoRA adapter: PEFT's directory, or a GGUF file. Requests name it in `GenerationRequest.adapter`.

        Raises InvalidRequest if the name is taken, the adapter does not fit the model, or there is no room for it.
        """
        await self._adapters.load(name, path)

    async def unload_adapter(self, name: str) -> None:
        """Unload an adapter; requests that use it end first. Raises ModelNotFound if it is not loaded."""
        self._adapters.unload(name)

    def adapters(self) -> tuple[str, ...]:
        """Return the names of the loaded adapters."""
        return self._adapters.names

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[Delta, None]:
        """Yield deltas until one has a finish reason; closing the iterator cancels within one step.

        Raises Saturated, InvalidRequest (a prompt that does not fit), ModelNotFound (the adapter), EngineDied,
        RequestFailed.
        """
        answer = Answer(self._tokenizer, request.stop, cursors=request.cursors, special_tokens=request.special_tokens)
        length = len(request.prompt_tokens) + len(request.answer_tokens)
        self._check(request.prompt_tokens + request.answer_tokens, longest=self.model_len - 1, param="messages")
        answer.resume(request.answer_tokens)
        adapter = self._adapters.acquire(request.adapter) if request.adapter else None
        self._admitted += 1
        admitted: Request | None = None
        ended = False
        try:
            constraint = await self._compile(request)
            admitted = self._admit(lambda: self._request(request, answer.ends, constraint, adapter))
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
                self._thread.leave(admitted, cancelled=not ended)
            if adapter is not None:
                self._adapters.release(adapter)

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
        kernels = GaugeMetricFamily(LLM_KERNELS, "1: what computes the model.", labels=(MODEL_LABEL, "kernels"))
        kernels.add_metric((model, self._decoder.kernels), 1.0)
        yield kernels
        for name, value in self._decoder.counters().items():
            yield counter(model, name, "A counter of the decoder; docs/reference/metrics.md describes it.", value)

    async def close(self) -> None:
        """Stop the thread after its present step; requests that still run end with EngineDied."""
        await self._thread.close()
        self._decoder.close()
        if self._store is not None:
            self._store.close()

    def _uncomputed_tokens(self) -> int:
        scheduler = self._scheduler
        pending = sum(sequence.pending for sequence in (*scheduler.running, *scheduler.waiting))
        return pending + self._thread.uncomputed_tokens

    async def _compile(self, request: GenerationRequest) -> ConstraintMatcher | None:
        """Return the state of the request's constraint. Raises InvalidRequest."""
        if request.constraint is None:
            return None
        matcher = await asyncio.wrap_future(self._constraints.compile(request.constraint))
        for token in request.answer_tokens:
            matcher.advance(token)
        return matcher

    async def _embed(self, prompt: tuple[int, ...], room: asyncio.Semaphore) -> array[float]:
        async with room:
            # Nothing of the prompt may come from the prefix cache: it has no hidden states.
            sequence = Sequence(list(prompt), reports_prompt=True, embeds=True)
            request = self._admit(lambda: EmbeddingRequest(sequence, self._decoder.config.pooling))
            ended = False
            try:
                update = await request.outbox.get()
                ended = True
                if isinstance(update, HeadraceError):
                    raise update
                return request.vector()
            finally:
                self._thread.leave(request, cancelled=not ended)

    def _admit(self, make: Callable[[], SomeRequest]) -> SomeRequest:
        """Make a request and give it to the engine's thread."""
        try:
            request = make()
        except Exception as error:
            raise failure(error) from error
        self._thread.admit(request)
        return request

    def _check(self, tokens: tuple[int, ...], *, longest: int, param: str) -> None:
        """Refuse what cannot be computed. `tokens`: those of the prompt and of the answer so far."""
        if not self.healthy:
            raise dead()
        if not tokens:
            raise InvalidRequest("the prompt is empty", param="prompt")
        if not 0 <= min(tokens) <= max(tokens) < self.vocabulary:
            raise InvalidRequest(f"a token id is not from 0 to {self.vocabulary - 1}", param="prompt")
        if len(tokens) > longest:
            raise ContextLengthExceeded(
                f"the prompt has {len(tokens)} tokens, and the model takes {self.model_len} with the answer",
                param=param,
                hint="Shorten it, or raise spec.runtime.llm.maxModelLen",
            )
        if self._admitted >= self.capacity:
            raise Saturated(f"{self._admitted} requests are running or waiting, the maximum of this replica")

    def _request(
        self,
        given: GenerationRequest,
        ends: frozenset[int],
        constraint: ConstraintMatcher | None,
        adapter: LoadedAdapter | None,
    ) -> Request:
        """Return the engine's side of a request. Whatever is wrong with its values raises here."""
        prompt = array("I", given.prompt_tokens).tolist()
        tokens = [*prompt, *given.answer_tokens]
        return Request(
            given=given,
            sequence=Sequence(
                tokens,
                salt=_salt(given.tenant, adapter),
                adapter=adapter.index if adapter else 0,
                reports_prompt=given.prompt_logprobs is not None,
            ),
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


def _salt(tenant: str, adapter: LoadedAdapter | None) -> bytes:
    """Return what keeps apart the cached prefixes of tenants, and those of adapters."""
    return blake2b(f"{tenant}\0{adapter.serial if adapter else 0}".encode(), digest_size=16).digest()
