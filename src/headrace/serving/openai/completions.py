"""The body of POST /v1/completions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Any, ClassVar

from pydantic import Discriminator, Field, Tag, field_validator
from typing_extensions import override

from headrace.serving.engine import GenerationRequest, TextEngine
from headrace.serving.errors import InvalidRequest
from headrace.serving.openai.fields import HINTS, OFF
from headrace.serving.openai.plan import Plan, Prompt
from headrace.serving.openai.requests import (
    MAX_CHOICES,
    MAX_TOP_LOGPROBS,
    GenerationBody,
    text_or_list,
    text_prompt,
    unsupported,
)

DEFAULT_TOKENS = 16
"""OpenAI's default limit for plain completions."""
MAX_PROMPT_LOGPROBS = 2**18
"""Log probabilities of prompts in one answer: they are kept until it is written, 150 bytes each. 64 prompts of 2,048
tokens with one alternative each are allowed, or a prompt of 32,768 tokens with 7."""


def prompt_form(value: object) -> str | None:
    """Discriminate the form of a prompt by its first item."""
    if isinstance(value, list) and value:
        forms = {str: "texts", int: "tokens", list: "token lists"}
        return forms.get(type(value[0]))
    return "tokens" if value == [] else text_or_list(value)


TextsOrTokens = Annotated[
    Annotated[str, Tag("text")]
    | Annotated[list[int], Field(min_length=1), Tag("tokens")]
    | Annotated[list[str], Tag("texts")]
    | Annotated[list[Annotated[list[int], Field(min_length=1)]], Tag("token lists")],
    Discriminator(prompt_form, "prompt_type", "Input should be a string, a list of strings, or token ids"),
]


def several(given: str | list[int] | list[str] | list[list[int]]) -> Sequence[str | list[int]]:
    """Return texts or lists of token ids as a list, also if there is only one."""
    if isinstance(given, str):
        return [given]
    texts = [each for each in given if not isinstance(each, int)]
    return texts or [[each for each in given if isinstance(each, int)]]


class CompletionBody(GenerationBody):
    """POST /v1/completions. A prompt is text or token ids; a list of texts or of lists of ids is several prompts."""

    off: ClassVar = {**OFF, "add_special_tokens": (True,)}
    hints: ClassVar = {**HINTS, "messages": "Send them to /v1/chat/completions"}

    prompt: TextsOrTokens
    max_tokens: int | None = Field(default=None, ge=0)
    """0 only with `echo`: nothing but the prompt."""
    best_of: int | None = Field(default=None, ge=1, le=MAX_CHOICES)
    logprobs: int | None = Field(default=None, ge=0, le=MAX_TOP_LOGPROBS)
    echo: bool | None = None

    @field_validator("logprobs", mode="before")
    @classmethod
    def _none_if_false(cls, value: Any) -> Any:
        return None if value is False else value

    @override
    def limit(self) -> int | None:
        if self.max_completion_tokens is not None:
            return self.max_completion_tokens
        # The engine always generates: an unrequested token is dropped (`Plan.only_echo`).
        return DEFAULT_TOKENS if self.max_tokens is None else max(self.max_tokens, 1)

    @override
    def samples(self) -> int:
        return max(self.best_of or 1, self.n or 1)

    @override
    def top_logprobs_wanted(self) -> int | None:
        return self.logprobs

    @override
    def plan(self, engine: TextEngine, *, cursors: bool = False, adapter: str = "") -> Plan:
        self._check()
        plan = GenerationBody.plan(self, engine, cursors=cursors and not self.echo, adapter=adapter)
        _check_prompt_logprobs(plan)
        return replace(plan, only_echo=self.max_tokens == 0 and self.max_completion_tokens is None)

    @override
    def echoes(self, prompts: Sequence[Prompt], engine: TextEngine) -> list[str]:
        return [prompt.text or engine.decode(prompt.tokens) for prompt in prompts] if self.echo else []

    @override
    def request(self, prompt: Prompt, engine: TextEngine) -> GenerationRequest:
        request = GenerationBody.request(self, prompt, engine)
        ranked = self.samples() > (self.n or 1)
        return replace(
            request,
            logprobs=0 if ranked and request.logprobs is None else request.logprobs,
            prompt_logprobs=self.logprobs if self.echo else None,
        )

    @override
    def prompts(self, engine: TextEngine) -> list[Prompt]:
        """Return the prompts' token ids."""
        prompts = several(self.prompt)
        self._check_capacity(len(prompts), engine)
        params = [f"prompt[{index}]" for index in range(len(prompts))] if len(prompts) > 1 else ["prompt"]
        return [text_prompt(prompt, engine, param=param) for prompt, param in zip(prompts, params, strict=True)]

    def _check(self) -> None:
        if self.max_tokens == 0 and not self.echo:
            raise InvalidRequest("`max_tokens: 0` is only allowed with `echo: true`", param="max_tokens")
        if self.best_of is not None and self.best_of < (self.n or 1):
            raise InvalidRequest("`best_of` is less than `n`", param="best_of")
        if self.stream and self.samples() > (self.n or 1):
            raise unsupported("best_of", "Leave it out, or do not stream: the best answer is known at the end only")


def _check_prompt_logprobs(plan: Plan) -> None:
    count = sum(
        len(request.prompt_tokens) * (1 + request.prompt_logprobs)
        for request in plan.requests
        if request.prompt_logprobs is not None
    )
    if count > MAX_PROMPT_LOGPROBS:
        raise InvalidRequest(
            f"`logprobs` with `echo`: {count} log probabilities of prompts in one answer, and {MAX_PROMPT_LOGPROBS} "
            "are allowed",
            param="logprobs",
            hint="Send several requests, or request fewer alternatives",
        )
