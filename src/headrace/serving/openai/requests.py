"""What all request bodies that generate text have in common, and their translation for the engine."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Any, ClassVar, Self

from pydantic import Discriminator, Field, PrivateAttr, Tag, ValidationError
from typing_extensions import override

from headrace.serving.engine import Constraint, GenerationRequest, Sampling, StopConditions, TextEngine
from headrace.serving.errors import ContextLengthExceeded, InvalidRequest, UnsupportedParameter
from headrace.serving.openai.constraints import ResponseFormat, StructuredOutputs
from headrace.serving.openai.faults import fault
from headrace.serving.openai.fields import HARMLESS, OFF, Fields
from headrace.serving.openai.plan import Plan, Prompt

MAX_STOPS = 4
MAX_STOP_CHARACTERS = 256
MAX_STOP_TOKENS = 1024
MAX_BIASES = 1024
MAX_TOP_LOGPROBS = 20
MAX_CHOICES = 128
MAX_SALT_CHARACTERS = 256
_SEEDS = 2**64


def text_or_list(value: object) -> str | None:
    """Discriminate a union of text and list; None: neither."""
    return "text" if isinstance(value, str) else "list" if isinstance(value, list) else None


class Body(Fields):
    """A request's body."""

    harmless = HARMLESS
    off = OFF

    model: str | None = Field(default=None, max_length=256)
    _ignored: list[str] = PrivateAttr(default_factory=list)

    @classmethod
    def read(cls, raw: bytes) -> Self:
        """Return the request. Raises InvalidRequest that names the field at fault."""
        try:
            return cls.model_validate_json(raw, context=[])
        except ValidationError as error:
            raise fault(error, raw) from None  # pydantic's own message quotes the prompt

    @override
    def model_post_init(self, context: Any, /) -> None:
        """Keep the names of ignored fields."""
        self._ignored = context if isinstance(context, list) else []

    @property
    def ignored(self) -> list[str]:
        """Return the paths of unknown fields."""
        return self._ignored


class StreamOptions(Fields):
    """Options of a stream: usage."""

    where = "stream_options."
    off: ClassVar = {"include_obfuscation": (False,)}

    include_usage: bool | None = None
    continuous_usage_stats: bool | None = None
    """From vLLM: the usage so far in every chunk."""


class SamplingBody(Body):
    """How tokens are chosen."""

    model: str = Field(max_length=256)
    stream: bool | None = None
    temperature: float | None = Field(default=None, ge=0, le=2)
    top_p: float | None = Field(default=None, ge=0, le=1)
    top_k: int | None = Field(default=None, ge=-1)
    min_p: float | None = Field(default=None, ge=0, le=1)
    seed: int | None = Field(default=None, ge=-(2**63), lt=_SEEDS)
    presence_penalty: float | None = Field(default=None, ge=-2, le=2)
    frequency_penalty: float | None = Field(default=None, ge=-2, le=2)
    repetition_penalty: float | None = Field(default=None, ge=0.01, le=10)
    """Logits are divided by it: float32 has no quotient for much smaller ones."""
    logit_bias: dict[str, Annotated[float, Field(ge=-100, le=100)]] | None = Field(default=None, max_length=MAX_BIASES)
    cache_salt: str | None = Field(default=None, max_length=MAX_SALT_CHARACTERS)
    """From vLLM: requests share cached prefixes only with those of the same salt."""

    def sampling(self, engine: TextEngine) -> Sampling:
        """Return how to choose tokens."""
        greedy = self.top_p == 0  # only the most likely token is left, as in OpenAI's API
        return Sampling(
            temperature=0.0 if greedy else 1.0 if self.temperature is None else self.temperature,
            top_p=1.0 if greedy or self.top_p is None else self.top_p,
            top_k=max(self.top_k or 0, 0),
            seed=self.seed,
            min_p=self.min_p or 0.0,
            presence_penalty=self.presence_penalty or 0.0,
            frequency_penalty=self.frequency_penalty or 0.0,
            repetition_penalty=1.0 if self.repetition_penalty is None else self.repetition_penalty,
            logit_bias=self._biases(engine),
        )

    def _biases(self, engine: TextEngine) -> tuple[tuple[int, float], ...]:
        biases = {}
        for name, bias in (self.logit_bias or {}).items():
            if not (name.isascii() and name.isdecimal() and len(name) <= len(str(engine.vocabulary))):
                raise InvalidRequest("`logit_bias`: a key is a token id", param="logit_bias")
            biases[int(name)] = bias
        checked_tokens(list(biases), engine, param="logit_bias")
        return tuple(biases.items())


class GenerationBody(SamplingBody, ABC):
    """The common fields of chat and plain completions."""

    stream_options: StreamOptions | None = None
    max_tokens: int | None = Field(default=None, ge=1)
    max_completion_tokens: int | None = Field(default=None, ge=1)
    stop: (
        Annotated[
            Annotated[str, Field(max_length=MAX_STOP_CHARACTERS), Tag("text")]
            | Annotated[
                list[Annotated[str, Field(min_length=1, max_length=MAX_STOP_CHARACTERS)]],
                Field(max_length=MAX_STOPS),
                Tag("list"),
            ],
            Discriminator(text_or_list, "stop_type", "Input should be a string or a list of strings"),
        ]
        | None
    ) = None
    stop_token_ids: list[int] | None = Field(default=None, max_length=MAX_STOP_TOKENS)
    include_stop_str_in_output: bool | None = None
    ignore_eos: bool | None = None
    min_tokens: int | None = Field(default=None, ge=0)
    n: int | None = Field(default=None, ge=1, le=MAX_CHOICES)
    response_format: ResponseFormat | None = None
    structured_outputs: StructuredOutputs | None = None

    @abstractmethod
    def prompts(self, engine: TextEngine) -> list[Prompt]:
        """Return the prompts; each gets an answer of its own."""

    @abstractmethod
    def top_logprobs_wanted(self) -> int | None:
        """Return the number of alternatives per token; None: no log probabilities are wanted."""

    def limit(self) -> int | None:
        """Return the token limit of the answer; the newer name takes precedence. None: up to the model's length."""
        return self.max_completion_tokens or self.max_tokens

    def _limit_field(self) -> str:
        return "max_tokens" if self.max_completion_tokens is None else "max_completion_tokens"

    def samples(self) -> int:
        """Return the answers to be generated per prompt."""
        return self.n or 1

    def echoes(self, prompts: Sequence[Prompt], engine: TextEngine) -> list[str]:
        """Return the texts with which the answers to the prompts begin; empty: with none."""
        del prompts, engine
        return []

    def constraint(self, engine: TextEngine) -> Constraint | None:
        """Return what the answer must match."""
        del engine
        structured = None if self.structured_outputs is None else self.structured_outputs.constraint()
        formatted = None if self.response_format is None else self.response_format.constraint()
        if structured is not None and formatted is not None:
            raise InvalidRequest(
                "`structured_outputs` and `response_format` exclude each other", param="structured_outputs"
            )
        return structured or formatted

    def plan(self, engine: TextEngine, *, cursors: bool = False, adapter: str = "") -> Plan:
        """Return the engine's requests. Raises InvalidRequest if fields contradict each other or exceed a limit."""
        if self.stream_options is not None and not self.stream:
            raise InvalidRequest("`stream_options` is only allowed with `stream: true`", param="stream_options")
        prompts, samples, options = self.prompts(engine), self.samples(), self.stream_options or StreamOptions()
        self._check_capacity(len(prompts), engine)
        constraint = self.constraint(engine)
        parsers = [
            None if prompt.chat is None else engine.parser(prompt.chat) for prompt in prompts for _ in range(samples)
        ]
        parsed = any(parser is not None for parser in parsers)
        requests = [
            replace(
                _sample(self.request(prompt, engine), number),
                constraint=constraint,
                adapter=adapter,
                special_tokens=parsed,
                # Only streams are interrupted in between; a parser may hold back text that a cursor would count.
                cursors=cursors and bool(self.stream) and not parsed,
            )
            for prompt in prompts
            for number in range(samples)
        ]
        return Plan(
            tuple(requests),
            samples=samples,
            choices=self.n or 1,
            parsers=tuple(parsers) if parsed else (),
            echoes=tuple(text for text in self.echoes(prompts, engine) for _ in range(samples)),
            logprobs=self.top_logprobs_wanted() is not None,
            stream=bool(self.stream),
            include_usage=bool(options.include_usage),
            continuous_usage=bool(options.continuous_usage_stats),
        )

    def request(self, prompt: Prompt, engine: TextEngine) -> GenerationRequest:
        """Return the engine's request for one prompt."""
        stop = (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())
        conditions = StopConditions(
            max_tokens=answer_tokens(prompt, self.limit(), engine, field=self._limit_field()),
            strings=tuple(text for text in stop if text),
            token_ids=frozenset(checked_tokens(self.stop_token_ids or [], engine, param="stop_token_ids")),
            ignore_eos=bool(self.ignore_eos),
            min_tokens=self.min_tokens or 0,
            include_string=bool(self.include_stop_str_in_output),
        )
        if conditions.min_tokens > conditions.max_tokens:
            raise InvalidRequest(
                f"`min_tokens` is {conditions.min_tokens}, and the answer has at most {conditions.max_tokens} tokens",
                param="min_tokens",
            )
        return GenerationRequest(
            tuple(prompt.tokens),
            self.sampling(engine),
            conditions,
            logprobs=self.top_logprobs_wanted(),
            tenant=self.cache_salt or "",
        )

    def _check_capacity(self, prompts: int, engine: TextEngine) -> None:
        """Reject more answers than the engine's capacity: they could never be served."""
        samples = self.samples()
        if prompts * samples > engine.capacity:
            several, what = prompts > 1, f"{prompts * samples} answers"
            param = "prompt" if several else "n" if samples == self.n else "best_of"
            raise InvalidRequest(
                f"`{param}`: {what} in one request, and a replica processes {engine.capacity} at once",
                param=param,
                hint="Send several requests",
            )


def answer_tokens(prompt: Prompt, limit: int | None, engine: TextEngine, *, field: str) -> int:
    """Return the most tokens of an answer; without a limit all that fit. Raises ContextLengthExceeded.

    `field`: the name of the limit in the request.
    """
    room = engine.model_len - len(prompt.tokens)
    if room < (limit or 1):
        wanted = f" and up to {limit} of the answer" if limit is not None else ""
        raise ContextLengthExceeded(
            f"the model length is {engine.model_len} tokens, and the request has {len(prompt.tokens)} of the prompt"
            f"{wanted}",
            param=prompt.param,
            hint="Shorten the prompt"
            if limit is None or room < 1
            else f"Shorten the prompt, or set `{field}` to {room} or less",
        )
    return room if limit is None else limit


def _sample(request: GenerationRequest, number: int) -> GenerationRequest:
    """Return the request for one of several answers to a prompt: with a seed, each has its own."""
    seed = request.sampling.seed
    if seed is None or number == 0:
        return request
    following = (seed + number) % _SEEDS if seed >= 0 else seed + number
    return replace(request, sampling=replace(request.sampling, seed=following))


def checked_tokens(tokens: list[int], engine: TextEngine, *, param: str) -> list[int]:
    """Return the token ids after a check: an unknown one would fail the step of the whole batch."""
    if not all(0 <= token < engine.vocabulary for token in tokens):
        raise InvalidRequest(f"`{param}`: a token id is a number from 0 to {engine.vocabulary - 1}", param=param)
    return tokens


def text_prompt(prompt: str | list[int], engine: TextEngine, *, param: str) -> Prompt:
    """Return a prompt of text or token ids. Raises InvalidRequest, ContextLengthExceeded."""
    if isinstance(prompt, list):
        return Prompt(checked_tokens(prompt, engine, param=param), param)
    check_size(prompt, engine, param=param)
    tokens = engine.encode(prompt)
    if not tokens:
        raise InvalidRequest(f"`{param}` is empty", param=param, hint="Send some text")
    return Prompt(tokens, param, prompt)


def check_size(text: str, engine: TextEngine, *, param: str) -> None:
    """Reject text that cannot fit, before it is tokenized: megabytes take seconds."""
    size = len(text.encode(errors="surrogatepass"))
    if size > engine.model_len * engine.longest_token:
        raise ContextLengthExceeded(
            f"the model length is {engine.model_len} tokens, and {size} bytes of text are more in any case",
            param=param,
            hint="Shorten the prompt",
        )


def unsupported(param: str, hint: str) -> UnsupportedParameter:
    """Return the error of a combination of fields that is not served."""
    return UnsupportedParameter(f"`{param}` is not supported here", param=param, hint=hint)
