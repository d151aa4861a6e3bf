"""Prompts with tools are those of transformers, and a model without a form for tools refuses them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from models.test_models_chat_template import ours_with, theirs_with

from headrace.serving.engine import Chat, ChatMessage, MessagePart, Tool, ToolCall, ToolUse
from headrace.serving.errors import InvalidRequest

TEMPLATES: dict[str, str] = yaml.safe_load(Path(__file__).with_name("tool_templates.yaml").read_text())
CITY = {"type": "object", "properties": {"city": {"type": "string", "description": "é <b>"}}, "required": ["city"]}
TOOLS = (Tool("get_weather", 'Weather of a "city"', CITY), Tool("now"))
HI = ChatMessage("user", "Weather in Köln?")
CONVERSATIONS: dict[str, list[ChatMessage]] = {
    "a question": [HI],
    "system": [ChatMessage("system", "Be brief."), HI],
    "a call and its result": [
        HI,
        ChatMessage(
            "assistant", "", tool_calls=(ToolCall("abcdef123", "get_weather", '{"city": "Köln", "n": [1, null]}'),)
        ),
        ChatMessage("tool", '{"celsius": 21}', tool_call_id="abcdef123"),
    ],
    "calls, results, an answer": [
        HI,
        ChatMessage(
            "assistant",
            "Let me see.",
            tool_calls=(ToolCall("abcdef123", "now", ""), ToolCall("abcdef456", "get_weather", '{"city":"X"}')),
            reasoning="Two calls.",
        ),
        ChatMessage("tool", "12:00", tool_call_id="abcdef123", name="now"),
        ChatMessage("tool", "21", tool_call_id="abcdef456"),
        ChatMessage("assistant", "It is 21 degrees."),
        ChatMessage("user", "And now?"),
    ],
}


def turn(message: ChatMessage) -> dict[str, Any]:
    """Return a message as transformers takes it."""
    calls = [
        {"id": c.id, "type": "function", "function": {"name": c.name, "arguments": json.loads(c.arguments or "{}")}}
        for c in message.tool_calls
    ]
    fields = {
        "role": message.role,
        "content": message.content,
        "name": message.name,
        "reasoning_content": message.reasoning or None,
        "tool_calls": calls or None,
        "tool_call_id": message.tool_call_id,
    }
    return {name: value for name, value in fields.items() if value is not None}


@pytest.mark.parametrize("name", TEMPLATES)
@pytest.mark.parametrize("options", [{}, {"enable_thinking": False, "thinking": False}], ids=["default", "off"])
@pytest.mark.parametrize("tools", [TOOLS, ()], ids=["tools", "none"])
def test_prompt_when_it_has_tools_then_as_transformers(
    name: str, options: dict[str, Any], tools: tuple[Tool, ...], tmp_path: Path
) -> None:
    ours = ours_with(TEMPLATES[name], tmp_path)
    theirs, rendered = theirs_with(TEMPLATES[name], ours), 0
    functions = [
        {"type": "function", "function": {"name": t.name, "description": t.description, "parameters": t.parameters}}
        for t in tools
    ]
    for messages in CONVERSATIONS.values():
        chat = Chat(tuple(messages), ToolUse(tools) if tools else None, options)
        fault = ""
        try:
            expected = theirs.apply_chat_template(
                [turn(message) for message in messages],
                tools=functions or None,
                add_generation_prompt=True,
                tokenize=False,
                **options,
            )
        except Exception as error:  # noqa: BLE001 - whatever a template fails by
            expected, fault = None, str(error)
        if expected is None:
            with pytest.raises(InvalidRequest) as raised:
                ours.encode_chat(chat)
            assert fault in raised.value.message
        else:
            rendered += 1
            assert ours._template.render(chat) == expected
            assert ours.encode_chat(chat) == ours._encode(expected)
    assert rendered >= 3


@pytest.mark.parametrize(
    ("template", "said"),
    [
        ("{% for m in messages %}{{ m.content }}{% endfor %}", "has no form for tools"),
        ("{% set tools = 1 %}{{ tools }}", "has no form for tools"),
        ("{{ tools | tojson }}", "format in which this model writes tool calls is not supported"),
    ],
)
def test_tools_when_the_model_cannot_take_them_then_refused(template: str, said: str, tmp_path: Path) -> None:
    ours = ours_with(template, tmp_path)
    with pytest.raises(InvalidRequest, match=said) as raised:
        ours.encode_chat(Chat((HI,), ToolUse(TOOLS)))
    assert (raised.value.param, raised.value.http_status) == ("tools", 400)
    assert ours.parser(Chat((HI,), ToolUse(TOOLS))) is None


@pytest.mark.parametrize("name", ["messages", "tools", "documents", "add_generation_prompt"])
def test_options_when_they_are_other_fields_then_refused(name: str, tmp_path: Path) -> None:
    ours = ours_with(TEMPLATES["hermes"], tmp_path)
    with pytest.raises(InvalidRequest, match=name) as raised:
        ours.encode_chat(Chat((HI,), template_options={name: []}))
    assert raised.value.param == "chat_template_kwargs"


@pytest.mark.parametrize("arguments", ["{", "not JSON", "[" * 100_000])
def test_call_when_its_arguments_are_not_json_then_refused(arguments: str, tmp_path: Path) -> None:
    ours = ours_with(TEMPLATES["hermes"], tmp_path)
    message = ChatMessage("assistant", "", tool_calls=(ToolCall("call_1", "now", arguments),))
    with pytest.raises(InvalidRequest, match="the arguments of the tool call 'call_1' are not JSON") as raised:
        ours.encode_chat(Chat((HI, message)))
    assert raised.value.param == "messages"


def test_required_call_when_reasoning_is_off_then_none_is_forced(tmp_path: Path) -> None:
    """The prompt ends after the reasoning then: the grammar of an answer that begins inside would force more of it."""
    ours, use = ours_with(TEMPLATES["hermes that opens the reasoning"], tmp_path), ToolUse(TOOLS, required=True)
    begins = {}
    for off in (False, True):
        constraint = ours.tool_constraint(use, {"thinking": False} if off else {})
        assert constraint is not None
        begins[off] = constraint.text.splitlines()[0]
    assert begins[False].startswith("start: thoughts ")
    assert begins[True].startswith("start: reasoning? ")


def test_parser_when_the_prompt_opens_reasoning_then_inside(tmp_path: Path) -> None:
    ours = ours_with(TEMPLATES["hermes that opens the reasoning"], tmp_path)
    cases: list[tuple[dict[str, Any], MessagePart]] = [
        ({}, MessagePart(reasoning="hm")),
        ({"thinking": False}, MessagePart(content="hm")),
    ]
    for options, expected in cases:
        parser = ours.parser(Chat((HI,), template_options=options))
        assert parser is not None
        assert parser.feed("hm") + parser.finish() == [expected]


BEGINNINGS = {
    "hermes": "<tool_call>",
    "hermes that opens the reasoning": "<tool_call>",
    "mistral": "[TOOL_CALLS]",
    "llama 3": '{"name"',
}


@pytest.mark.parametrize("name", TEMPLATES)
def test_calls_when_rendered_then_parsed_back(name: str, tmp_path: Path) -> None:
    """What a template writes for an assistant's calls is what the parser of its dialect reads."""
    ours = ours_with(TEMPLATES[name], tmp_path)
    call = ToolCall("abcdef123", "get_weather", '{"city": "Köln \\"x\\"", "n": [1, null]}')
    answer = ChatMessage("assistant", "", tool_calls=(call,))
    chat = Chat((HI, answer, ChatMessage("user", "thanks")), ToolUse(TOOLS), {"thinking": False})
    written, parser = ours._template.render(chat), ours.parser(chat)
    assert parser is not None
    answered = written[written.rindex(BEGINNINGS[name]) :]
    parts = [part for part in parser.feed(answered) + parser.finish() if part.call is not None]
    assert [part.name for part in parts if part.name] == ["get_weather"]
    assert json.loads("".join(part.arguments for part in parts)) == json.loads(call.arguments)
