"""How models write tool calls and reasoning: parsed the same however the text is cut into pieces."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from itertools import count, pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.serving.engine import MessageParser, MessagePart, Tool, ToolUse
from headrace.serving.errors import InvalidRequest
from headrace_models.dialects.call_format import CallFormat
from headrace_models.dialects.call_parser import CallParser
from headrace_models.dialects.call_reader import MAX_HEAD
from headrace_models.dialects.dialect import Dialect
from headrace_models.dialects.hermes import HERMES
from headrace_models.dialects.llama3 import LLAMA3
from headrace_models.dialects.mistral import MISTRAL
from headrace_models.dialects.reasoning import ReasoningParser, ReasoningSplitter
from headrace_models.dialects.registry import call_format

NAMES = ("f", "get_weather")
Call = tuple[str, str]


def calls_of(parser_format: CallFormat, *, parallel: bool = True) -> CallParser:
    ids = (f"call_{i}" for i in count())
    return CallParser(parser_format, NAMES, parallel=parallel, new_id=lambda: next(ids))


def parsed(parser: MessageParser, pieces: Iterable[str]) -> list[MessagePart]:
    """Feed pieces, and return the parts with neighbours of one kind joined."""
    parts = [part for piece in pieces for part in parser.feed(piece)] + parser.finish()
    joined: list[MessagePart] = []
    for part in parts:
        assert sum((bool(part.content), bool(part.reasoning), part.call is not None)) == 1
        last = joined[-1] if joined else None
        same = last is not None and (last.call, bool(last.content)) == (part.call, bool(part.content))
        if last is not None and same:
            assert not part.name
            assert not part.call_id
            joined[-1] = MessagePart(
                last.content + part.content,
                last.reasoning + part.reasoning,
                last.call,
                last.call_id,
                last.name,
                last.arguments + part.arguments,
            )
        else:
            joined.append(part)
    return joined


def summary(parts: list[MessagePart]) -> tuple[str, str, list[Call]]:
    """Return content, reasoning and calls."""
    calls = [part for part in parts if part.call is not None]
    assert [part.call for part in calls] == list(range(len(calls)))
    return (
        "".join(part.content for part in parts),
        "".join(part.reasoning for part in parts),
        [(part.name, part.arguments) for part in calls],
    )


ARGUMENTS = '{"city": "Köln {\\"x\\"} ]", "days": [1, {"a": null}]}'
CASES: list[tuple[CallFormat, str, str | None, list[Call]]] = [
    (HERMES, "Hello {world}", "Hello {world}", []),
    (HERMES, '<tool_call>\n{"name": "f", "arguments": {}}\n</tool_call>', "", [("f", "{}")]),
    (HERMES, f'<tool_call>{{"arguments": {ARGUMENTS}, "name": "f"}}</tool_call>', "", [("f", ARGUMENTS)]),
    (HERMES, f'Let me see. \n<tool_call>\n{{"name":"f","arguments":{ARGUMENTS}}}', "Let me see.", [("f", ARGUMENTS)]),
    (HERMES, '<tool_call>{"name": "f"}</tool_call> done', "done", [("f", "{}")]),
    (HERMES, '<tool_call>{"id": 7, "name": "f", "x": [{}], "y": null }</tool_call>', "", [("f", "{}")]),
    (
        HERMES,
        '<tool_call>{"name": "f", "arguments": {"a": 1}}</tool_call>\n<tool_call>{"name": "get_weather"}</tool_call>\n',
        "",
        [("f", '{"a": 1}'), ("get_weather", "{}")],
    ),
    # No calls: an unknown tool, a malformed head, an incomplete one, a marker in text.
    (HERMES, '<tool_call>{"name": "rm", "arguments": {}}</tool_call>', None, []),
    (HERMES, '<tool_call>{"name": 7}</tool_call>', None, []),
    (HERMES, "<tool_call>f()</tool_call>", None, []),
    (HERMES, '<tool_call>{"name": "f", "argu', None, []),
    (HERMES, '<tool_call>{"name": "f", "arguments": ', None, []),
    (HERMES, '<tool_call>{"name": "f", "arguments": "{}"}', None, []),
    (HERMES, 'text \n<tool_call>{"name": f}', None, []),
    (HERMES, "a <tool_ca", None, []),
    (HERMES, "a <tool_call>", None, []),
    (HERMES, "<tool_call>{" + " " * (MAX_HEAD + 5), None, []),
    # A call that has begun remains one.
    (HERMES, '<tool_call>{"name": "f", "arguments": {"a": "tru', "", [("f", '{"a": "tru')]),
    (HERMES, '<tool_call>{"name": "f", "arguments": {}} rest', "rest", [("f", "{}")]),
    (HERMES, '<tool_call>{"name": "f", "arguments": {}]} rest', "]} rest", [("f", "{}")]),
    (HERMES, '<tool_call>{"name": "f", "arguments": {}}</tool', "", [("f", "{}")]),
    (HERMES, '<tool_call><tool_call>{"name": "f"}</tool_call>', "<tool_call>", [("f", "{}")]),
    (
        MISTRAL,
        f'[TOOL_CALLS] [{{"name": "f", "arguments": {ARGUMENTS}, "id": "123456789"}}, {{"name": "get_weather"}}]',
        "",
        [("f", ARGUMENTS), ("get_weather", "{}")],
    ),
    (MISTRAL, '[TOOL_CALLS][{"name": "f", "arguments": {}}, oops]', ", oops]", [("f", "{}")]),
    (MISTRAL, '[TOOL_CALLS]{"name": "f"}', None, []),
    (MISTRAL, '[{"name": "f", "arguments": {}}]', None, []),
    (LLAMA3, f'{{"name": "f", "parameters": {ARGUMENTS}}}', "", [("f", ARGUMENTS)]),
    (LLAMA3, '\n{"type": "function", "name": "f", "parameters": {}}\n', "", [("f", "{}")]),
    (LLAMA3, '<|python_tag|>{"name": "f", "parameters": {}}; {"name": "f"}', "", [("f", "{}"), ("f", "{}")]),
    (LLAMA3, '<|python_tag|>print("x")', None, []),
    (LLAMA3, '{"name": "Ann", "parameters": {}}', None, []),
    (LLAMA3, '{"answer": 42}', None, []),
    (LLAMA3, 'So: {"name": "f", "parameters": {}}', None, []),
    (LLAMA3, " plain", None, []),
]


@pytest.mark.parametrize("case", CASES, ids=range(len(CASES)))
def test_calls_when_an_answer_has_them_then_found(case: tuple[CallFormat, str, str | None, list[Call]]) -> None:
    """None as content: all of the text. Whole, by characters, and in every two pieces."""
    parser_format, text, content, calls = case
    expected = (text if content is None else content, "", calls)
    whole = parsed(calls_of(parser_format), [text])
    assert summary(whole) == expected
    assert parsed(calls_of(parser_format), list(text)) == whole
    for cut in range(0, len(text), 1 + len(text) // 200):
        assert parsed(calls_of(parser_format), [text[:cut], text[cut:]]) == whole


WORDS = [
    *("<tool_call>", "</tool_call>", "[TOOL_CALLS]", "<|python_tag|>", "<think>", "</think>", "<", "tool", "\n", " "),
    *('{"name": "f", "arguments": {"a": "x"}}', '{"name": "f", "parameters": {}}', "[", "]", ",", ";", "{", "}", '"'),
    *('"name":', '"f"', "text", '\\"'),
]


def pieces_of(text: str, cuts: list[int]) -> Iterator[str]:
    places = sorted({0, len(text), *(cut % (len(text) + 1) for cut in cuts)})
    return (text[a:b] for a, b in pairwise(places))


@settings(max_examples=500, deadline=None)
@given(
    words=st.lists(st.sampled_from(WORDS), max_size=12),
    cuts=st.lists(st.integers(0, 400), max_size=8),
    parser_format=st.sampled_from([HERMES, MISTRAL, LLAMA3]),
    opened=st.booleans(),
    reasons=st.booleans(),
)
def test_parts_however_the_text_is_cut_then_the_same(
    words: list[str], cuts: list[int], parser_format: CallFormat, *, opened: bool, reasons: bool
) -> None:
    """Nothing but whitespace and the format itself is lost, whatever the model writes."""

    def parser() -> MessageParser:
        calls = calls_of(parser_format)
        return ReasoningParser(ReasoningSplitter(opened=opened), calls) if reasons else calls

    text = "".join(words)
    whole = parsed(parser(), [text])
    assert parsed(parser(), list(pieces_of(text, cuts))) == whole
    assert parsed(parser(), list(text)) == whole
    content, _, calls = summary(whole)
    if not calls and not reasons:
        assert content == text
    assert all(word in text for part in whole for word in (part.content + part.reasoning).split())
    assert all(arguments in text or arguments == "{}" for _, arguments in calls)


def test_arguments_when_they_arrive_then_streamed() -> None:
    parser = calls_of(HERMES)
    assert parser.feed('Hm. <tool_call>{"name": "f", "arguments": ') == [MessagePart(content="Hm.")]
    assert parser.feed('{"a"') == [
        MessagePart(call=0, call_id="call_0", name="f"),
        MessagePart(call=0, arguments='{"a"'),
    ]
    assert parser.feed(": 1") == [MessagePart(call=0, arguments=": 1")]
    assert parser.feed("}}</tool") == [MessagePart(call=0, arguments="}")]
    assert parser.feed("_call>\n") == []
    assert parser.finish() == []


def test_calls_when_not_parallel_then_the_second_is_content() -> None:
    call = '<tool_call>{"name": "f", "arguments": {}}</tool_call>'
    content, _, calls = summary(parsed(calls_of(HERMES, parallel=False), [call, call]))
    assert (content, calls) == (call, [("f", "{}")])


REASONING = [
    ("<think>\nhm\n</think>\n\nanswer", False, "hm", "answer"),
    ("\n<think>hm</think>answer ", False, "hm", "answer "),
    ("hm, <b>\n</think>\n\nanswer", True, "hm, <b>", "answer"),
    ("<think>\nhm\n</think>answer", True, "hm", "answer"),
    ("<think>hm, not done </thi", False, "hm, not done </thi", ""),
    ("hm", True, "hm", ""),
    ("<think>\n\n</think>\n\nanswer", False, "", "answer"),
    ("answer <think>x</think>", False, "", "answer <think>x</think>"),
    ("<thi", False, "", "<thi"),
    ("  answer", False, "", "  answer"),
    ("", True, "", ""),
]


@pytest.mark.parametrize(("text", "opened", "reasoning", "content"), REASONING)
def test_reasoning_when_written_then_split(text: str, reasoning: str, content: str, *, opened: bool) -> None:
    for pieces in ([text], list(text), [text[:5], text[5:]]):
        parts = parsed(ReasoningParser(ReasoningSplitter(opened=opened), None), pieces)
        assert summary(parts) == (content, reasoning, [])


def test_calls_when_after_reasoning_then_found() -> None:
    text = '<think>\nUse <tool_call>?\n</think>\n\n<tool_call>\n{"name": "f", "arguments": {}}\n</tool_call>'
    for pieces in ([text], list(text)):
        parser = ReasoningParser(ReasoningSplitter(opened=False), calls_of(HERMES))
        assert summary(parsed(parser, pieces)) == ("", "Use <tool_call>?", [("f", "{}")])


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("... <tool_call>{{ call | tojson }}</tool_call>", HERMES),
        ("<tool_call><function={{ name }}>", None),
        ("<tool_call>{{ name }}<arg_key>", None),
        ("[TOOL_CALLS][{{ calls }}]", MISTRAL),
        ("[TOOL_CALLS]{{ name }}[ARGS]", None),
        ('<|start_header_id|> {"name": function name, "parameters": ...}', LLAMA3),
        ("{{ messages }}", None),
        ("", None),
    ],
)
def test_format_when_a_template_shows_it_then_detected(template: str, expected: CallFormat | None) -> None:
    assert call_format(template) is expected


def test_parser_when_nothing_is_to_be_found_then_none() -> None:
    tools = ToolUse((Tool("f"),))
    assert Dialect.of("plain", {}).parser(tools, opened=False) is None
    assert Dialect.of("<tool_call>", {}).parser(None, opened=False) is None
    assert Dialect.of("<tool_call>", {}).parser(tools, opened=False) is not None
    assert Dialect.of("plain", {7: "</think>"}).parser(None, opened=False) is not None


@pytest.mark.parametrize(
    ("template", "text", "prefix", "length"),
    [
        ("<tool_call>", '<tool_call>{"name": "f"}', "call_", 29),
        ("[TOOL_CALLS]", '[TOOL_CALLS][{"name": "f"}]', "", 9),
    ],
)
def test_ids_when_calls_are_found_then_of_the_form(template: str, text: str, prefix: str, length: int) -> None:
    ids = set()
    for _ in range(5):
        parser: Any = Dialect.of(template, {}).parser(ToolUse((Tool("f"),)), opened=False)
        (part, _) = parser.feed(text)
        assert part.call_id.startswith(prefix)
        assert part.call_id.removeprefix(prefix).isalnum()
        assert len(part.call_id) == length
        ids.add(part.call_id)
    assert len(ids) == 5


def test_constraint_when_no_call_is_required_then_none() -> None:
    dialect, tools = Dialect.of("<tool_call>", {}), (Tool("f"), Tool("g"))
    assert dialect.tool_constraint(ToolUse(tools), opened=False) is None
    assert Dialect.of("", {}).tool_constraint(ToolUse(tools, required=True), opened=False) is None
    named = dialect.tool_constraint(ToolUse(tools, name="g"), opened=False)
    assert named is not None
    assert json.dumps('{"name": "g", "arguments": ') in named.text
    assert '\\"f\\"' not in named.text


def test_constraint_when_the_named_tool_is_unknown_then_refused() -> None:
    with pytest.raises(InvalidRequest, match="no tool 'h'") as raised:
        Dialect.of("<tool_call>", {}).tool_constraint(ToolUse((Tool("f"),), name="h"), opened=False)
    assert raised.value.param == "tool_choice"
