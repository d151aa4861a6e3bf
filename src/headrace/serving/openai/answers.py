"""Serialization of chat and plain completions.

The chunks of a stream differ only in their text, so everything around it is encoded once per request; a step costs one
JSON string between two constants per stream. Only chunks with more than text (reasoning, tool calls, log probabilities,
usage) are encoded as a whole.

Optional fields that are absent are absent, not null. `finish_reason` is null until the end and `content` is null beside
tool calls, because OpenAI's schema requires both.
"""

from __future__ import annotations

import json
import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from functools import lru_cache
from json.encoder import encode_basestring
from typing import Any, ClassVar

from typing_extensions import override

from headrace.http.answers import CURSOR, DONE
from headrace.serving.engine import Delta, FinishReason, MessagePart, TokenLogprob
from headrace.serving.openai.choices import Answer, Choice
from headrace.serving.openai.logprobs import TokenText, chat_logprobs, text_logprobs
from headrace.serving.openai.plan import Plan
from headrace.serving.openai.streams import Step

MAX_CACHED_TEXTS = 65536
"""Texts of tokens that are kept for log probabilities."""


def token_text(decode: Callable[[list[int]], str]) -> TokenText:
    """Return a function from a token to its text; it remembers the texts."""
    return lru_cache(MAX_CACHED_TEXTS)(lambda token: decode([token]))


class OpenAIAnswer(Answer, ABC):
    """The answers to a request of chat or plain completions, as a whole or in chunks."""

    prefix: ClassVar[str]
    """Prefix of the answer's id."""
    whole_object: ClassVar[str]
    chunk_object: ClassVar[str]
    opening: ClassVar[dict[str, Any] | None]
    """Content of the first chunk of each choice; None: there is no such chunk."""
    closing: ClassVar[dict[str, Any]]
    """Content of the chunk with the finish reason."""

    def __init__(self, model: str, plan: Plan, text: TokenText) -> None:
        super().__init__(plan)
        self._text = text
        self._head = {"id": f"{self.prefix}-{uuid.uuid4().hex}", "created": int(time.time()), "model": model}
        self._cursors = any(request.cursors for request in plan.requests)
        self._plain = not plan.continuous_usage and not plan.logprobs
        """Whether a chunk with text has nothing else that changes."""
        self._text_only = self._plain and not plan.parsers and not plan.echoes
        """Whether there are no other chunks until the end."""

    @property
    def usage(self) -> dict[str, Any]:
        """Return the tokens so far in OpenAI's format: of all prompts and choices together."""
        prompt, completion = self.prompt_tokens, self.completion_tokens
        return {
            "prompt_tokens": prompt,
            "completion_tokens": completion,
            "total_tokens": prompt + completion,
            "prompt_tokens_details": {"cached_tokens": self.cached_tokens},
        }

    @abstractmethod
    def message(self, choice: Choice) -> dict[str, Any]:
        """Return the content of a choice of a whole answer."""

    @abstractmethod
    def delta(self, part: MessagePart) -> dict[str, Any]:
        """Return the content of a choice of a chunk."""

    @abstractmethod
    def logprobs(self, choice: Choice, entries: tuple[TokenLogprob, ...] | list[TokenLogprob]) -> dict[str, Any]:
        """Return the log probabilities of tokens of the answer, in the order in which they arrive."""

    @override
    def whole(self) -> dict[str, Any]:
        """Return the whole answer."""
        choices = [
            {"index": index, **self._whole(each), "finish_reason": each.finish_reason}
            for index, each in enumerate(self._best())
        ]
        return {**self._head, "object": self.whole_object, "choices": choices, "usage": self.usage}

    @override
    def open(self) -> bytes:
        """Return the first events of a stream."""
        mark, events = "\x00", b""
        for choice in self.choices:
            frame = self._chunk(choice, self.delta(MessagePart(content=mark)))
            choice.before, _, choice.after = frame.partition(encode_basestring(mark).encode())
            if self.opening is not None:
                events += self._chunk(choice, self.opening)
        return events

    @override
    def chunk(self, step: Step) -> bytes:
        """Return the events of a step, with their cursor if cursors were requested.

        Empty if the step added no text (a character or a possible stop string is incomplete).
        """
        if self._text_only and step.delta.finish_reason is None:
            return self._text_chunk(self.choices[step.index], step.delta)
        choice, delta = self.count(step), self.kept(step.delta)
        first = self._first(choice, step.delta)
        parts = choice.parts(delta)
        counted = self._cursors and delta.cursor is not None
        if counted and parts and choice.finish_reason is not None:  # one event: the cursor counts the text and the end
            return self._cursor() + self._chunk(
                choice, self._with_logprobs(choice, parts[0], delta), choice.finish_reason
            )
        if self._plain:
            events = b"".join([self._part(choice, part) for part in parts])
        else:
            events = b"".join(self._full_chunks(choice, parts, delta))
        if choice.finish_reason is not None:
            events += self._chunk(choice, self.closing, choice.finish_reason)
        events = first + events
        return self._cursor() + events if counted and events else events

    @override
    def close(self) -> bytes:
        """Return the last events of a stream."""
        if not self.plan.include_usage:
            return DONE
        return _event({**self._head, "object": self.chunk_object, "choices": [], "usage": self.usage}) + DONE

    def _whole(self, choice: Choice) -> dict[str, Any]:
        content = self.message(choice)
        return {**content, "logprobs": self.logprobs(choice, choice.logprobs)} if self.plan.logprobs else content

    def _best(self) -> Iterator[Choice]:
        """Yield the answers that the client gets, by prompt."""
        samples, wanted = self.plan.samples, self.plan.choices
        for start in range(0, len(self.choices), samples):
            group = self.choices[start : start + samples]
            if wanted < samples:
                group = sorted(group, key=lambda each: each.mean_logprob, reverse=True)[:wanted]
            yield from group

    def _first(self, choice: Choice, delta: Delta) -> bytes:
        """Return the events of a choice before its first text."""
        del choice, delta
        return b""

    def _text_chunk(self, choice: Choice, delta: Delta) -> bytes:
        """Return the event of a step that is text and not the last: the path of nearly all steps."""
        choice.count(delta)
        if not delta.text:
            return b""
        event = choice.before + encode_basestring(delta.text).encode() + choice.after
        return self._cursor() + event if self._cursors and delta.cursor is not None else event

    def _part(self, choice: Choice, part: MessagePart) -> bytes:
        if part.content:
            return choice.before + encode_basestring(part.content).encode() + choice.after
        return self._chunk(choice, self.delta(part))

    def _full_chunks(self, choice: Choice, parts: list[MessagePart], delta: Delta) -> Iterator[bytes]:
        """Yield chunks with log probabilities or usage; a step without text may have the former."""
        if not parts and delta.logprobs and self.plan.logprobs:
            parts = [MessagePart()]
        for number, part in enumerate(parts):
            content = self.delta(part) if number else self._with_logprobs(choice, part, delta)
            yield self._chunk(choice, content)

    def _with_logprobs(self, choice: Choice, part: MessagePart, delta: Delta) -> dict[str, Any]:
        content = self.delta(part)
        if self.plan.logprobs and delta.logprobs:
            return {**content, "logprobs": self.logprobs(choice, delta.logprobs)}
        return content

    def _cursor(self) -> bytes:
        """Return the comment before an event. It covers all choices, so that a reader needs only the last one."""
        return CURSOR + ",".join(str(choice.cursor) for choice in self.choices).encode() + b"\n\n"

    def _chunk(self, choice: Choice, content: dict[str, Any], finish: FinishReason | None = None) -> bytes:
        written = {"index": choice.index, **content, "finish_reason": finish}
        chunk: dict[str, Any] = {**self._head, "object": self.chunk_object, "choices": [written]}
        if self.plan.continuous_usage:
            chunk["usage"] = self.usage
        elif self.plan.include_usage:
            chunk["usage"] = None  # OpenAI's documentation: null in all but the last
        return _event(chunk)


class ChatAnswer(OpenAIAnswer):
    """The answer to a conversation."""

    prefix = "chatcmpl"
    whole_object = "chat.completion"
    chunk_object = "chat.completion.chunk"
    opening: ClassVar = {"delta": {"role": "assistant", "content": ""}}
    closing: ClassVar = {"delta": {}}

    @override
    def message(self, choice: Choice) -> dict[str, Any]:
        content, reasoning = "".join(choice.texts), "".join(choice.reasoning)
        message: dict[str, Any] = {"role": "assistant", "content": content}
        if reasoning:
            message["reasoning_content"] = reasoning
        if choice.calls:
            message["content"] = content or None
            message["tool_calls"] = [
                {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
                for _, call in sorted(choice.calls.items())
            ]
        return {"message": message}

    @override
    def delta(self, part: MessagePart) -> dict[str, Any]:
        if part.call is not None:
            call: dict[str, Any] = {"index": part.call}
            if part.call_id:
                call |= {"id": part.call_id, "type": "function"}
            function = {"name": part.name} if part.name else {}
            return {"delta": {"tool_calls": [{**call, "function": {**function, "arguments": part.arguments}}]}}
        return {"delta": {"reasoning_content": part.reasoning} if part.reasoning else {"content": part.content}}

    @override
    def logprobs(self, choice: Choice, entries: tuple[TokenLogprob, ...] | list[TokenLogprob]) -> dict[str, Any]:
        return chat_logprobs(entries, self._text)


class TextAnswer(OpenAIAnswer):
    """The completion of texts."""

    prefix = "cmpl"
    whole_object = chunk_object = "text_completion"
    opening = None
    closing: ClassVar = {"text": ""}

    @override
    def message(self, choice: Choice) -> dict[str, Any]:
        return {"text": self._echo(choice) + "".join(choice.texts)}

    @override
    def delta(self, part: MessagePart) -> dict[str, Any]:
        return {"text": part.content}

    @override
    def logprobs(self, choice: Choice, entries: tuple[TokenLogprob, ...] | list[TokenLogprob]) -> dict[str, Any]:
        """Return the log probabilities; those of an echoed prompt come first."""
        prompt, choice.prompt_logprobs = choice.prompt_logprobs, ()
        tokens = [*(choice.request.prompt_tokens if prompt else ()), *(each.token for each in entries)]
        made = text_logprobs([*prompt, *entries], tokens, self._text, choice.offset)
        choice.offset += sum(len(text) for text in made["tokens"])
        return made

    @override
    def _first(self, choice: Choice, delta: Delta) -> bytes:
        """Return the chunk with the echo of the prompt."""
        echo = self._echo(choice)
        if not echo or choice.opened:
            return b""
        choice.opened = True
        choice.prompt_logprobs = delta.prompt_logprobs
        content: dict[str, Any] = {"text": echo}
        if self.plan.logprobs:
            content["logprobs"] = self.logprobs(choice, ())
        return self._chunk(choice, content)

    def _echo(self, choice: Choice) -> str:
        return self.plan.echoes[choice.index] if self.plan.echoes else ""


def _event(payload: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(payload, ensure_ascii=False, separators=(",", ":")).encode() + b"\n\n"
