"""A model's chat template: Jinja from the file, with the functions of transformers, which templates assume.

A template comes from outside: it runs in a sandbox that can change nothing. One that does not compile, or fails on a
conversation, refuses chat and nothing else.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

from jinja2 import Template, TemplateError, TemplateSyntaxError, meta
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension, loopcontrols
from jinja2.nodes import CallBlock, Node
from jinja2.parser import Parser
from jinja2.runtime import Macro
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace
from typing_extensions import override

from headrace.serving.engine import Chat, ChatMessage, Tool, ToolCall
from headrace.serving.errors import InvalidRequest

log = logging.getLogger(__name__)

_RESERVED = frozenset({"messages", "tools", "documents", "add_generation_prompt"})
"""Variables that come from the request's own fields."""


class ChatTemplate:
    """A compiled template. `names`: special tokens by their names in templates, for example `bos_token`."""

    def __init__(self, source: object, names: Mapping[str, str]) -> None:
        self._names = {
            "bos_token": "",
            "eos_token": "",
            **names,
        }  # "" joins with text, which an undefined name does not
        self.source = source if isinstance(source, str) else ""
        self._template: Template | None = None
        self._takes_tools = False
        self._fault = "the model has no chat template"
        if not isinstance(source, str):
            return
        try:
            environment = _environment()
            self._template = environment.from_string(source)
            self._takes_tools = "tools" in meta.find_undeclared_variables(environment.parse(source))
        except Exception as error:  # noqa: BLE001 - the template is untrusted code, and compiling it may raise anything
            line = f"line {error.lineno}: " if isinstance(error, TemplateSyntaxError) else ""
            self._fault = f"the model's chat template is broken: {line}{error}"
            log.warning("%s; chat is refused, completions are served", self._fault)

    def render(self, chat: Chat) -> str:
        """Return the prompt for an answer.

        Raises InvalidRequest if the template rejects the conversation, or has no form for its tools.
        """
        if self._template is None:
            raise InvalidRequest(self._fault, param="messages", hint="Use /v1/completions")
        tools = chat.tool_use.tools if chat.tool_use else ()
        if tools and not self._takes_tools:
            raise InvalidRequest("the model's chat template has no form for tools", param="tools", hint="Remove them")
        reserved = sorted(_RESERVED & chat.template_options.keys())
        if reserved:
            raise InvalidRequest(
                f"the chat template's variable {reserved[0]!r} is set by headrace", param="chat_template_kwargs"
            )
        variables = {
            **self._names,
            **chat.template_options,
            "messages": [_turn(message) for message in chat.messages],
            "tools": [_tool(tool) for tool in tools] or None,
            "documents": None,
            "add_generation_prompt": True,
        }
        try:
            return self._template.render(variables)
        except _RefusedByTemplate as error:
            raise InvalidRequest(f"the model's chat template refused: {error}", param="messages") from error
        except Exception as error:  # it is code, written for conversations that it expects
            raise InvalidRequest(
                f"the model's chat template failed on this conversation: {error}", param="messages"
            ) from error


class _RefusedByTemplate(TemplateError):
    """The template called `raise_exception`; its text is for the author of the messages."""


class _GenerationBlocks(Extension):
    """`{% generation %}`: marks the model's text in training templates; it renders its content."""

    tags = {"generation"}  # noqa: RUF012 - jinja2's declaration

    @override
    def parse(self, parser: Parser) -> Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return CallBlock(self.call_method("_body"), [], [], body).set_lineno(line)

    def _body(self, caller: Macro) -> str:
        return caller()


class _Namespace(Namespace):
    """`namespace()` without dunder names, which could leave the sandbox."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        attributes = dict(*args, **kwargs)
        for name in attributes:
            _check_name(name)
        super().__init__(attributes)

    @override
    def __setitem__(self, name: str, value: Any) -> None:
        _check_name(name)
        super().__setitem__(name, value)


class _Dict:
    """`dict` as templates use it, without the type itself, which could leave the sandbox."""

    def __call__(self, *args: Any, **kwargs: Any) -> dict[Any, Any]:
        return dict(*args, **kwargs)

    def fromkeys(self, keys: Iterable[Any], value: Any = None) -> dict[Any, Any]:
        """Return a dictionary with the value under each key."""
        return dict.fromkeys(keys, value)


def _check_name(name: object) -> None:
    if isinstance(name, str) and name.startswith("_"):
        raise SecurityError(f"a namespace cannot have {name!r}")


def _environment() -> ImmutableSandboxedEnvironment:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_GenerationBlocks, loopcontrols]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = _strftime_now
    environment.globals["namespace"] = _Namespace
    environment.globals["dict"] = _Dict()
    return environment


def _to_json(
    value: object,
    ensure_ascii: bool = False,  # noqa: FBT001, FBT002 - the order is transformers', and templates may use it
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,  # noqa: FBT001, FBT002
) -> str:
    """Return JSON unescaped; jinja2's own filter escapes for HTML."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise_exception(message: str) -> None:
    raise _RefusedByTemplate(message)


def _strftime_now(layout: str) -> str:
    # Without a zone, as in transformers: %Z is then empty in both.
    return datetime.now().astimezone().replace(tzinfo=None).strftime(layout)


def _turn(message: ChatMessage) -> dict[str, object]:
    """Return a message for templates: missing fields are absent, not None."""
    turn: dict[str, object] = {"role": message.role, "content": message.content}
    if message.name is not None:
        turn["name"] = message.name
    if message.reasoning:
        turn["reasoning_content"] = message.reasoning
    if message.tool_calls:
        turn["tool_calls"] = [_call(call) for call in message.tool_calls]
    if message.tool_call_id is not None:
        turn["tool_call_id"] = message.tool_call_id
    return turn


def _call(call: ToolCall) -> dict[str, object]:
    """Return a call for templates, which write the arguments themselves and so need the object."""
    try:
        arguments = json.loads(call.arguments or "{}")
    except (ValueError, RecursionError) as error:
        raise InvalidRequest(
            f"the arguments of the tool call {call.id!r} are not JSON: {error}", param="messages"
        ) from error
    return {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": arguments}}


def _tool(tool: Tool) -> dict[str, object]:
    function = {"name": tool.name, "description": tool.description, "parameters": dict(tool.parameters)}
    return {"type": "function", "function": function}
