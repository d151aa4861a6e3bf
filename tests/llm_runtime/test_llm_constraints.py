"""Answers under a constraint match it, whatever the model's logits are."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.serving.engine import Constraint, ConstraintKind, Sampling, Tool, ToolUse
from headrace.serving.errors import InvalidRequest, RequestFailed
from headrace_llm.sampling.constraints import MAX_BYTES, ConstraintCompiler, ConstraintMatcher
from headrace_llm.sampling.sampler import Bitmask, Sampler
from headrace_models.dialects.dialect import Dialect
from headrace_models.model_file import ModelFile
from headrace_models.tokenizer import ModelTokenizer

LOADED: list[ModelTokenizer] = []
COMPILERS: list[ConstraintCompiler] = []
"""Hypothesis runs a test many times and takes no fixtures."""
SCHEMA, REGEX, GRAMMAR = ConstraintKind.JSON_SCHEMA, ConstraintKind.REGEX, ConstraintKind.GRAMMAR


@pytest.fixture(autouse=True, scope="module")
def _tokenizer(smollm2_path: Path) -> Iterator[None]:
    LOADED.append(ModelTokenizer(ModelFile.open(smollm2_path)))
    COMPILERS.append(ConstraintCompiler(LOADED[0]))
    yield
    LOADED.clear()
    COMPILERS.clear()


def compiled(kind: ConstraintKind, text: str) -> ConstraintMatcher:
    return COMPILERS[0].compile(Constraint(kind, text, "response_format")).result()


def written(matcher: ConstraintMatcher, seed: int, *, limit: int = 150, temperature: float = 1.0) -> str | None:
    """Return the answer of a model with random logits; None if it is not complete after `limit` tokens.

    Quotes, brackets and ends are likelier than other tokens, so that answers end.
    """
    tokenizer, random = LOADED[0], np.random.default_rng(seed)
    sampler = Sampler(Sampling(seed=seed, temperature=temperature, top_k=200), vocabulary=tokenizer.vocabulary)
    likely = [token for text in '"}],' for token in tokenizer.encode(text)] + sorted(tokenizer.ends)
    ids: list[int] = []
    while not matcher.complete:
        if len(ids) == limit:
            return None
        logits = random.standard_normal(tokenizer.vocabulary, dtype=np.float32) * 3
        logits[likely] += 15
        token = sampler.sample(logits, matcher.allowed()).token
        if token in tokenizer.ends:
            break
        matcher.advance(token)
        ids.append(token)
    return tokenizer.decode(ids)


PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string"},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "tags": {"type": "array", "items": {"enum": ["a", "b"]}, "maxItems": 3},
        "parent": {"anyOf": [{"type": "null"}, {"$ref": "#"}]},
    },
    "required": ["name", "age", "tags", "parent"],
    "additionalProperties": False,
}


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("schema", [PERSON, {"type": "object"}, {}], ids=["person", "json object", "any"])
def test_answer_when_of_a_schema_then_valid(schema: dict[str, Any], seed: int) -> None:
    text = written(compiled(SCHEMA, json.dumps(schema)), seed)
    if text is not None:
        jsonschema.validate(json.loads(text), schema)


LETTERS = st.text(alphabet='ab"\\é 🙂{\n', max_size=5)
"""The model's vocabulary lacks a few bytes, and so the characters of some planes."""


def schemas() -> st.SearchStrategy[dict[str, Any]]:
    leaves = st.one_of(
        st.just({"type": "string", "maxLength": 8}),
        st.builds(
            lambda low, span: {"type": "integer", "minimum": low, "maximum": low + span},
            st.integers(-9, 9),
            st.integers(0, 99),
        ),
        st.just({"type": "boolean"}),
        st.just({"type": "null"}),
        st.builds(
            lambda values: {"enum": values},
            st.lists(st.one_of(LETTERS, st.integers()), min_size=1, max_size=4),
        ),
        st.builds(lambda value: {"const": value}, LETTERS),
        st.just({"type": "string", "pattern": "^[a-c]{2,4}-[0-9]+$", "maxLength": 9}),
    )

    def nested(children: st.SearchStrategy[dict[str, Any]]) -> st.SearchStrategy[dict[str, Any]]:
        names = st.text(alphabet='ab"\\é ', min_size=1, max_size=3)
        return st.one_of(
            st.builds(
                lambda items, most: {"type": "array", "items": items, "maxItems": most}, children, st.integers(0, 3)
            ),
            st.builds(
                lambda fields: {
                    "type": "object",
                    "properties": fields,
                    "required": list(fields)[:2],
                    "additionalProperties": False,
                },
                st.dictionaries(names, children, max_size=3),
            ),
            st.builds(lambda options: {"anyOf": options}, st.lists(children, min_size=1, max_size=3)),
        )

    return st.recursive(leaves, nested, max_leaves=6)


@settings(max_examples=40, deadline=None)
@given(schema=schemas(), seed=st.integers(0, 2**32))
def test_answer_when_of_any_small_schema_then_valid(schema: dict[str, Any], seed: int) -> None:
    text = written(compiled(SCHEMA, json.dumps(schema)), seed)
    assert text is not None
    jsonschema.validate(json.loads(text), schema)


@pytest.mark.parametrize("expression", ["(yes|no)", r"[A-Z][a-z]{2,8}, \d{4}-\d{2}-\d{2}", "é+🙂?", "(ab|c){3,5}"])
def test_answer_when_of_a_regex_then_it_matches(expression: str) -> None:
    for seed in range(5):
        text = written(compiled(REGEX, expression), seed)
        if text is not None:
            assert re.fullmatch(expression, text)


def test_answer_when_of_a_grammar_then_it_matches() -> None:
    grammar = 'start: sum\nsum: NUMBER ("+" NUMBER)~1..3\nNUMBER: /[1-9][0-9]{0,2}/'
    for seed in range(5):
        text = written(compiled(GRAMMAR, grammar), seed)
        assert text is not None
        assert re.fullmatch(r"[1-9][0-9]{0,2}(\+[1-9][0-9]{0,2}){1,3}", text)


WEATHER = {
    "properties": {"city": {"$ref": "#/$defs/city"}},
    "required": ["city"],
    "additionalProperties": False,
    "$defs": {"city": {"enum": ["Köln", "Oslo"]}},
}
TOOLS = (
    Tool("get_weather", parameters=WEATHER),
    Tool('say "hi"', parameters={"type": "object", "properties": {}, "additionalProperties": False}),
)
USES = {
    "required": ToolUse(TOOLS, required=True),
    "one": ToolUse(TOOLS, required=True, parallel=False),
    "named": ToolUse(TOOLS, name="get_weather"),
}


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize(
    ("template", "special"),
    [
        ("<tool_call>", {}),
        ("<tool_call> <think>", {}),
        ("<tool_call>", {1: "<tool_call>"}),
        ("[TOOL_CALLS]", {1: "[TOOL_CALLS]"}),
        ('<|start_header_id|> "parameters"', {}),
    ],
    ids=["hermes", "hermes and reasoning", "hermes, special", "mistral", "llama 3"],
)
def test_calls_when_required_then_parsed_and_valid(template: str, special: dict[int, str], use: str) -> None:
    """An answer under the constraint of a tool choice is calls, and their arguments match the schemas."""
    dialect, tool_use = Dialect.of(template, special), USES[use]
    constraint = dialect.tool_constraint(tool_use, opened=False)
    assert constraint is not None
    counts = set()
    for seed in range(4):
        text = written(COMPILERS[0].compile(constraint).result(), seed)
        if text is None:
            assert "think" in template or tool_use.parallel
            continue
        parser = dialect.parser(tool_use, opened=False)
        assert parser is not None
        text = "".join(special.values()) + text  # `decode` leaves special tokens out
        parts = parser.feed(text) + parser.finish()
        assert not any(part.content for part in parts)
        names = [part.name for part in parts if part.name]
        arguments = ["".join(part.arguments for part in parts if part.call == i) for i in range(len(names))]
        for name, value in zip(names, arguments, strict=True):
            (tool,) = (tool for tool in TOOLS if tool.name == name)
            jsonschema.validate(json.loads(value), {"type": "object", **tool.parameters})
            assert tool_use.name in ("", name)
        counts.add(len(names))
    assert 0 not in counts
    assert use == "required" or counts <= {1}


@pytest.mark.parametrize(
    ("kind", "text", "said"),
    [
        (SCHEMA, "{", "not JSON"),
        (SCHEMA, "[" * 60_000, "not JSON"),
        (SCHEMA, "7", "not a JSON object"),
        (SCHEMA, '{"not": {}}', "not"),
        (SCHEMA, '{"type": "x"}', "x"),
        (SCHEMA, '{"$ref": "http://localhost/x"}', "localhost"),
        (SCHEMA, '{"type": "string", "pattern": "("}', "unclosed group"),
        (SCHEMA, '{"type": "object", "properties": {"a": false}, "required": ["a"]}', "unsatisfiable"),
        (REGEX, "(", "unclosed group"),
        (REGEX, "(?=x)y", "look-around"),
        (GRAMMAR, "nothing", "Expected"),
        (GRAMMAR, "start: @other", "other"),
        (REGEX, "a" * (MAX_BYTES + 1), "65537 bytes"),
    ],
)
def test_constraint_when_it_cannot_be_used_then_refused(kind: ConstraintKind, text: str, said: str) -> None:
    with pytest.raises(InvalidRequest, match=re.escape(said)) as raised:
        COMPILERS[0].compile(Constraint(kind, text, "guided")).result()
    assert (raised.value.param, raised.value.http_status) == ("guided", 400)
    assert len(raised.value.message) < 600


CHAINS = {
    "rules": (GRAMMAR, "start: r0\n" + "\n".join(f'r{i}: "x" r{i + 1}' for i in range(3000)) + '\nr3000: "y"'),
    "references": (
        SCHEMA,
        json.dumps(
            {
                "$ref": "#/$defs/0",
                "$defs": {
                    **{str(i): {"items": {"$ref": f"#/$defs/{i + 1}"}} for i in range(700)},
                    "700": {},
                },
            }
        ),
    ),
}


@pytest.mark.parametrize("chain", CHAINS)
def test_constraint_when_it_is_a_long_chain_then_it_compiles(chain: str) -> None:
    """The library recurses through it: on a stack of the usual size, it ended the process."""
    assert compiled(*CHAINS[chain]).allowed().any()


def test_constraint_when_it_takes_too_much_work_then_refused() -> None:
    with pytest.raises(InvalidRequest, match="too big"):
        compiled(REGEX, "a?" * 20_000)


def test_mask_when_a_token_is_not_allowed_then_refused() -> None:
    matcher = compiled(REGEX, "yes")
    mask = matcher.allowed()
    (allowed,) = np.flatnonzero(np.unpackbits(mask.view(np.uint8), bitorder="little"))
    assert LOADED[0].decode([int(allowed)]) == "yes"
    with pytest.raises(RequestFailed, match="cannot be followed further"):
        matcher.advance(LOADED[0].encode("no")[0])


def only(mask: Bitmask) -> int | None:
    """Return the token of a mask that allows one."""
    allowed = np.flatnonzero(np.unpackbits(mask.view(np.uint8), bitorder="little"))
    return int(allowed[0]) if len(allowed) == 1 else None


@settings(max_examples=20, deadline=None)
@given(schema=schemas(), seed=st.integers(0, 2**32))
def test_forced_tokens_then_those_that_masks_leave(schema: dict[str, Any], seed: int) -> None:
    """Each forced token is the only one that its mask allows: taking it without logits changes no answer."""
    matcher, stepped = compiled(SCHEMA, json.dumps(schema)), compiled(SCHEMA, json.dumps(schema))
    random = np.random.default_rng(seed)
    for _ in range(100):
        for token in matcher.forced():
            assert only(stepped.allowed()) == token
            stepped.advance(token)
            matcher.advance(token)
        if matcher.complete:
            break
        allowed = np.flatnonzero(np.unpackbits(matcher.allowed().view(np.uint8), bitorder="little"))
        token = int(random.choice(allowed))
        if token in LOADED[0].ends:
            break
        stepped.advance(token)
        matcher.advance(token)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_token_when_only_one_is_allowed_then_it_comes(temperature: float) -> None:
    """Forced text is exact at any temperature, and is known without logits."""
    text = "Hello, wörld"
    assert written(compiled(REGEX, text), 3, temperature=temperature) == text
    forced = compiled(REGEX, text).forced()
    assert forced
    assert text.startswith(LOADED[0].decode(forced))


def test_matcher_when_a_draft_is_taken_back_then_as_before() -> None:
    matcher = compiled(SCHEMA, json.dumps(PERSON))
    ids = LOADED[0].encode('{"name": "Ann", "age": 3')
    for token in ids[:4]:
        matcher.advance(token)
    before = matcher.allowed().copy()
    for token in ids[4:]:
        matcher.advance(token)
    assert (matcher.allowed() != before).any()
    matcher.rollback(len(ids) - 4)
    assert (matcher.allowed() == before).all()


def test_matcher_when_complete_then_it_says_so() -> None:
    matcher = compiled(SCHEMA, '{"const": [1]}')
    for token in LOADED[0].encode("[1]"):
        assert not matcher.complete
        matcher.advance(token)
    assert matcher.complete


def test_compile_when_repeated_then_copied_not_compiled() -> None:
    """The answers to one request have the same constraint: it is compiled once, and each has a state of its own."""
    kept = COMPILERS[0].grammars
    before = kept.cache_info()
    first, second = (compiled(REGEX, "copied (ab|cd)") for _ in range(2))
    assert (kept.cache_info().misses - before.misses, kept.cache_info().hits - before.hits) == (1, 1)
    for token in LOADED[0].encode("copied ab"):
        first.advance(token)
    assert first.complete
    assert written(second, 1) in ("copied ab", "copied cd")


def test_compile_when_cancelled_before_its_turn_then_skipped() -> None:
    """Clients that leave must not keep the one thread busy."""
    before = COMPILERS[0].grammars.cache_info().misses
    slow = COMPILERS[0].compile(Constraint(SCHEMA, json.dumps({"properties": {f"p{i}": {} for i in range(900)}}), "x"))
    assert COMPILERS[0].compile(Constraint(REGEX, "never compiled", "x")).cancel()
    slow.result()
    compiled(REGEX, "compiled after it")
    assert COMPILERS[0].grammars.cache_info().misses - before == 2
