"""What the engine is asked for, and how its answers become one response."""

from __future__ import annotations

from dataclasses import dataclass, field

from headrace.serving.engine import Chat, GenerationRequest, MessageParser


@dataclass(frozen=True, slots=True)
class Prompt:
    """One of a request's prompts, as token ids."""

    tokens: list[int]
    param: str
    """The field that holds it, for errors."""
    text: str = field(default="", compare=False)
    """What the client sent; of token ids, their text."""
    chat: Chat | None = field(default=None, compare=False)
    """The conversation, if it is one."""


@dataclass(frozen=True, slots=True)
class Plan:
    """The engine's requests for one HTTP request. Those for one prompt follow each other."""

    requests: tuple[GenerationRequest, ...]
    samples: int = 1
    """Requests per prompt."""
    choices: int = 1
    """Answers per prompt that the client gets: of more samples, the most likely ones."""
    parsers: tuple[MessageParser | None, ...] = ()
    """Per request; empty: none of them has one."""
    echoes: tuple[str, ...] = ()
    """The prompts' texts, if the answers begin with them."""
    logprobs: bool = False
    """Whether the client gets log probabilities."""
    only_echo: bool = False
    """Whether the answers are nothing but the prompts; the token that the engine generates nevertheless is dropped."""
    stream: bool = False
    include_usage: bool = False
    """Whether a stream ends with the usage."""
    continuous_usage: bool = False
    """Whether each chunk has the usage so far."""
