"""Answers that match a JSON schema, a regular expression or a grammar, by llguidance.

llguidance (github.com/guidance-ai/llguidance) walks the vocabulary's trie with a lexer and an Earley parser, and so
finds the tokens after which the text can still be completed. A sampler that draws among these keeps the model's own
distribution over them. Where only one text can follow, only the tokens that the tokenizer writes it with are allowed:
these are known without logits (`forced`).

JSON is written with one space after commas and colons and none elsewhere: if any whitespace were allowed, a small model
could write it without end.
"""

from __future__ import annotations

import json
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from headrace.serving.engine import Constraint, ConstraintKind
from headrace.serving.errors import InvalidRequest, RequestFailed
from headrace_llm.sampling.sampler import Bitmask
from headrace_models.dialects.tool_grammar import JSON_WHITESPACE
from headrace_models.tokenizer import ModelTokenizer

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLTokenizer

MAX_BYTES = 64 * 1024
"""Of a constraint's text."""
MAX_GRAMMAR_SYMBOLS = 200_000
"""Symbols of a compiled grammar."""
STACK_BYTES = 512 * 1024**2
"""Of the thread that compiles. The library recurses, some kilobytes per step of a chain of rules or of `$ref`s: chains
of 3000 ended the process on a usual stack of 8 MiB. It is address space; only what is used takes memory."""
LEXER_FUEL = 50_000
"""Work of building a lexer. With `MAX_BYTES` it bounds the time of compiling to about a second: a thousand optional
fields or enum values are far below, `a?` repeated 10,000 times is above. A limit of work accepts a constraint
always or never; one of time would depend on the machine's load."""
MAX_KEPT = 16
"""Compiled constraints that are kept: applications repeat theirs, and all answers to one request have the same."""
_LONGEST_REASON = 300
"""Characters of the library's message in an error."""


class ConstraintMatcher:
    """The state of one answer under a constraint. For one thread at a time.

    `allowed` takes 0.05 to 5 ms; call it while the model computes the logits that it is for. It needs no lock of the
    interpreter.
    """

    def __init__(self, matcher: LLMatcher, vocabulary: int) -> None:
        self._matcher = matcher
        self._mask: Bitmask = np.zeros((vocabulary + 31) // 32, dtype=np.uint32)
        self._current = False
        """Whether the mask is that of the present state."""

    @property
    def complete(self) -> bool:
        """Whether the text matches and nothing can follow: the answer ends, without a token that ends it."""
        return bool(self._matcher.is_stopped())

    def allowed(self) -> Bitmask:
        """Return the tokens that may come next. The array is reused: it is valid until `advance`.

        Raises RequestFailed if the constraint needs too much work.
        """
        if not self._current:
            self._matcher.unsafe_compute_mask_ptr(self._mask.ctypes.data, self._mask.nbytes)
            self._check()
            self._current = True
        return self._mask

    def forced(self) -> list[int]:
        """Return the tokens that must come next, as each is the only one that is allowed. The state does not change."""
        found: list[int] = self._matcher.compute_ff_tokens()
        self._check()
        return found

    def advance(self, token: int) -> None:
        """Add a token to the text. Raises RequestFailed if it is not allowed."""
        self._current = False
        self._matcher.consume_token(token)
        self._check()

    def rollback(self, count: int) -> None:
        """Take back the newest tokens: those of a draft that was rejected."""
        self._current = False
        self._matcher.rollback(count)
        self._check()

    def _check(self) -> None:
        if self._matcher.is_error():
            raise RequestFailed(
                f"the answer's format cannot be followed further: {_short(self._matcher.get_error())}",
                hint="Simplify the schema, the expression or the grammar",
            )


class ConstraintCompiler:
    """Compiles constraints for the tokens of one model. Thread-safe."""

    def __init__(self, tokenizer: ModelTokenizer) -> None:
        self._tokenizer = tokenizer
        self._library: LLTokenizer | None = None
        """Constructed by the worker, before the first constraint."""
        self._worker = _large_stack_worker()
        self.grammars = lru_cache(MAX_KEPT)(self._compile)
        """Compiled constraints before the first token, of which answers get copies. Used by the worker only."""

    def compile(self, constraint: Constraint) -> Future[ConstraintMatcher]:
        """Return the state before the first token, 1 ms to 1 s later; a kept one is copied in 0.05 ms.

        One constraint is compiled at a time, in a thread without the interpreter, so that clients cannot occupy more
        than one core with these; one that is cancelled before its turn is not compiled. The first one also builds the
        vocabulary's trie, which holds the interpreter for a quarter of a second.
        Raises InvalidRequest, as the future does, with the constraint's param, if it is too large, invalid, or uses
        what is not supported.
        """
        size = len(constraint.text.encode(errors="replace"))
        if size > MAX_BYTES:
            raise _invalid(constraint, f"it has {size} bytes, and {MAX_BYTES} are allowed")
        return self._worker.submit(self._state, constraint)

    def _state(self, constraint: Constraint) -> ConstraintMatcher:
        return ConstraintMatcher(self.grammars(constraint).deep_copy(), self._tokenizer.vocabulary)

    def _compile(self, constraint: Constraint) -> LLMatcher:
        from llguidance import LLMatcher, LLParserLimits  # noqa: PLC0415 - 8 MB that most replicas never need

        limits = LLParserLimits(
            initial_lexer_fuel=LEXER_FUEL, max_grammar_size=MAX_GRAMMAR_SYMBOLS, verbose_errors=False
        )
        matcher = LLMatcher(self._trie(), _grammar(constraint), log_level=0, limits=limits)
        if matcher.is_error():
            raise _invalid(constraint, _short(matcher.get_error()))
        return matcher

    def _trie(self) -> LLTokenizer:
        from llguidance import LLTokenizer  # noqa: PLC0415 - as above

        if self._library is None:
            # Without slices: they would double the time, and masks take as long without them (measured).
            self._library = LLTokenizer(
                self._tokenizer.definition(),
                n_vocab=self._tokenizer.vocabulary,
                eos_token=sorted(self._tokenizer.ends) or None,
                slices=[],
            )
        return self._library


def _large_stack_worker() -> ThreadPoolExecutor:
    """Return an executor of one thread with a stack of `STACK_BYTES`."""
    before = threading.stack_size(STACK_BYTES)  # of the threads that are started next
    try:
        worker = ThreadPoolExecutor(1, thread_name_prefix="constraints")
        worker.submit(int).result()  # starts the thread
        return worker
    finally:
        threading.stack_size(before)


def _grammar(constraint: Constraint) -> str:
    """Return the constraint in the library's own format."""
    from llguidance import LLMatcher  # noqa: PLC0415 - as above

    match constraint.kind:
        case ConstraintKind.JSON_SCHEMA:
            return LLMatcher.grammar_from_json_schema(_schema(constraint))
        case ConstraintKind.REGEX:
            return LLMatcher.grammar_from_regex(constraint.text)
        case ConstraintKind.GRAMMAR:
            return LLMatcher.grammar_from_lark(constraint.text)


def _schema(constraint: Constraint) -> str:
    """Return the schema with the options of whitespace."""
    try:
        schema = json.loads(constraint.text)
        if schema is True:
            schema = {}
        if not isinstance(schema, dict):
            raise _invalid(constraint, "the schema is not a JSON object")
        return json.dumps({**schema, "x-guidance": JSON_WHITESPACE})
    except (ValueError, RecursionError) as error:
        raise _invalid(constraint, f"the schema is not JSON: {error}") from error


def _invalid(constraint: Constraint, why: str) -> InvalidRequest:
    kind = {"json-schema": "JSON schema", "regex": "regular expression", "grammar": "grammar"}[constraint.kind]
    return InvalidRequest(f"the {kind} cannot be used: {why}", param=constraint.param)


def _short(text: str) -> str:
    return " ".join(text.split())[:_LONGEST_REASON]
