"""Serialization of /v1/responses: items of reasoning, text and tool calls, as a whole or as events."""

from __future__ import annotations

import json
import time
import uuid
from dataclasses import dataclass
from enum import Enum
from typing import Any

from typing_extensions import override

from headrace.serving.engine import FinishReason, MessagePart
from headrace.serving.openai.choices import Answer
from headrace.serving.openai.plan import Plan
from headrace.serving.openai.responses import ResponseBody
from headrace.serving.openai.streams import Step


class ItemKind(Enum):
    """The kind of an output item; the value is the prefix of its id."""

    REASONING = "rs"
    MESSAGE = "msg"
    CALL = "fc"


@dataclass(slots=True)
class OutputItem:
    """One item of the output, as far as it has arrived."""

    kind: ItemKind
    id: str
    index: int
    call: int | None = None
    call_id: str = ""
    name: str = ""
    text: str = ""
    """Of the message or the reasoning, or the arguments of the call."""

    def part(self, text: str) -> dict[str, Any]:
        """Return the one part of the content."""
        if self.kind is ItemKind.REASONING:
            return {"type": "reasoning_text", "text": text}
        return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}

    def written(self, status: str) -> dict[str, Any]:
        """Return the item; in progress it is empty."""
        text, begun = ("", False) if status == "in_progress" else (self.text, True)
        if self.kind is ItemKind.CALL:
            call = {"call_id": self.call_id, "name": self.name, "arguments": text}
            return {"id": self.id, "type": "function_call", **call, "status": status}
        content = [self.part(text)] if begun else []
        if self.kind is ItemKind.REASONING:
            return {"id": self.id, "type": "reasoning", "summary": [], "content": content, "status": status}
        return {"id": self.id, "type": "message", "role": "assistant", "content": content, "status": status}


class ResponseAnswer(Answer):
    """The response to a request."""

    def __init__(self, body: ResponseBody, plan: Plan) -> None:
        super().__init__(plan)
        self._body = body
        self._id = f"resp_{uuid.uuid4().hex}"
        self._created = int(time.time())
        self._items: list[OutputItem] = []
        self._events = 0

    @override
    def add(self, step: Step) -> None:
        self._take(step)

    @override
    def whole(self) -> dict[str, Any]:
        if not self._items:
            self._open_item(MessagePart())
        return self._response(self._status)

    @override
    def open(self) -> bytes:
        response = self._response("in_progress")
        return self._event("response.created", response=response) + self._event(
            "response.in_progress", response=response
        )

    @override
    def chunk(self, step: Step) -> bytes:
        return self._take(step)

    @override
    def close(self) -> bytes:
        events = b"" if self._items else self._open_item(MessagePart())
        events += self._close_item()
        return events + self._event(f"response.{self._status}", response=self.whole())

    @property
    def _status(self) -> str:
        return "incomplete" if self.choices[0].finish_reason is FinishReason.LENGTH else "completed"

    def _take(self, step: Step) -> bytes:
        """Add a step and return its events."""
        choice, events = self.count(step), b""
        for part in choice.parts(step.delta):
            kind = _kind(part)
            if not self._items or self._items[-1].kind is not kind or self._items[-1].call != part.call:
                events += self._close_item() + self._open_item(part)
            item, added = self._items[-1], part.content or part.reasoning or part.arguments
            item.text += added
            if added:
                events += self._delta(item, added)
        return events

    def _open_item(self, part: MessagePart) -> bytes:
        kind, index = _kind(part), len(self._items)
        item = OutputItem(kind, f"{kind.value}_{uuid.uuid4().hex}", index, part.call, part.call_id, part.name)
        self._items.append(item)
        events = self._event("response.output_item.added", output_index=index, item=item.written("in_progress"))
        if kind is not ItemKind.CALL:
            events += self._event("response.content_part.added", **_place(item), part=item.part(""))
        return events

    def _delta(self, item: OutputItem, added: str) -> bytes:
        if item.kind is ItemKind.CALL:
            place = {"item_id": item.id, "output_index": item.index}
            return self._event("response.function_call_arguments.delta", **place, delta=added)
        if item.kind is ItemKind.REASONING:
            return self._event("response.reasoning_text.delta", **_place(item), delta=added)
        return self._event("response.output_text.delta", **_place(item), delta=added, logprobs=[])

    def _close_item(self) -> bytes:
        """Return the events that end the last item."""
        if not self._items:
            return b""
        item = self._items[-1]
        if item.kind is ItemKind.CALL:
            call = {"item_id": item.id, "output_index": item.index, "name": item.name, "arguments": item.text}
            events = self._event("response.function_call_arguments.done", **call)
        else:
            done = {"text": item.text} if item.kind is ItemKind.REASONING else {"text": item.text, "logprobs": []}
            name = "reasoning_text" if item.kind is ItemKind.REASONING else "output_text"
            events = self._event(f"response.{name}.done", **_place(item), **done)
            events += self._event("response.content_part.done", **_place(item), part=item.part(item.text))
        written = item.written(self._item_status(item))
        return events + self._event("response.output_item.done", output_index=item.index, item=written)

    def _item_status(self, item: OutputItem) -> str:
        """Return the status of an item that has ended: only the last one may be cut off."""
        return self._status if item is self._items[-1] else "completed"

    def _response(self, status: str) -> dict[str, Any]:
        """Return the response. Keys that OpenAI's schema requires are null where there is nothing."""
        body, ended = self._body, status != "in_progress"
        choice = body.tool_choice
        formatted = body.text.format if body.text is not None else None
        return {
            "id": self._id,
            "object": "response",
            "created_at": self._created,
            "status": status,
            "error": None,
            "incomplete_details": {"reason": "max_output_tokens"} if status == "incomplete" else None,
            "instructions": body.instructions,
            "max_output_tokens": body.max_output_tokens,
            "metadata": {},
            "model": body.model,
            "output": [item.written(self._item_status(item)) for item in self._items] if ended else [],
            "parallel_tool_calls": body.parallel_tool_calls is not False,
            "previous_response_id": None,
            "reasoning": {"effort": None, "summary": None},
            "store": False,
            "temperature": 1.0 if body.temperature is None else body.temperature,
            "text": {
                "format": {"type": "text"}
                if formatted is None
                else formatted.model_dump(by_alias=True, exclude_none=True)
            },
            "tool_choice": choice if isinstance(choice, str) else "auto" if choice is None else choice.model_dump(),
            "tools": [_tool(tool.model_dump()) for tool in body.tools or ()],
            "top_p": 1.0 if body.top_p is None else body.top_p,
            "truncation": "disabled",
            "usage": self._usage() if ended else None,
        }

    def _usage(self) -> dict[str, Any]:
        prompt, completion = self.prompt_tokens, self.completion_tokens
        return {
            "input_tokens": prompt,
            "input_tokens_details": {"cached_tokens": self.cached_tokens},
            "output_tokens": completion,
            "output_tokens_details": {"reasoning_tokens": self.choices[0].reasoning_tokens},
            "total_tokens": prompt + completion,
        }

    def _event(self, kind: str, **fields: Any) -> bytes:
        payload = {"type": kind, "sequence_number": self._events, **fields}
        self._events += 1
        data = json.dumps(payload, ensure_ascii=False, separators=(",", ":"))
        return f"event: {kind}\ndata: {data}\n\n".encode()


def _kind(part: MessagePart) -> ItemKind:
    if part.call is not None:
        return ItemKind.CALL
    return ItemKind.REASONING if part.reasoning else ItemKind.MESSAGE


def _place(item: OutputItem) -> dict[str, Any]:
    return {"item_id": item.id, "output_index": item.index, "content_index": 0}


def _tool(tool: dict[str, Any]) -> dict[str, Any]:
    return {**tool, "strict": bool(tool["strict"]), "parameters": tool["parameters"] or {}}
