"""Text to tokens and back, as the model's file says: byte-level BPE with its vocabulary, merges and chat template."""

from __future__ import annotations

import json
from datetime import datetime
from functools import partial
from typing import Any

from jinja2 import TemplateError
from jinja2.ext import loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment
from tokenizers import AddedToken, Tokenizer, decoders, pre_tokenizers
from tokenizers.decoders import DecodeStream
from tokenizers.models import BPE

from headrace.errors import InvalidModel
from headrace.serving.engine import ChatMessage
from headrace.serving.errors import InvalidRequest
from headrace_llm.gguf import GGUFFile

_CONTROL, _USER_DEFINED = 3, 4
"""Token types of GGUF that are matched in text as a whole."""

_PRE_TOKENIZERS: dict[str, list[Any]] = {
    "smollm": [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)],
    "gpt-2": [pre_tokenizers.ByteLevel(add_prefix_space=False)],
}
"""How text is cut before merging, by `tokenizer.ggml.pre`."""


class ModelTokenizer:
    """The tokenizer of one model. Thread-safe: encoding and decoding change nothing."""

    def __init__(self, file: GGUFFile) -> None:
        metadata = file.metadata
        kind, pre = metadata.get("tokenizer.ggml.model"), metadata.get("tokenizer.ggml.pre", "gpt-2")
        if kind != "gpt2" or not isinstance(pre, str) or pre not in _PRE_TOKENIZERS:
            raise InvalidModel(
                f"{file.path.name} has a tokenizer {kind}/{pre}",
                hint=f"This runtime knows gpt2 with: {', '.join(_PRE_TOKENIZERS)}",
            )
        tokens, merges = _strings(file, "tokenizer.ggml.tokens"), _strings(file, "tokenizer.ggml.merges")
        types = metadata.get("tokenizer.ggml.token_type")
        self._tokenizer = _bpe(file, tokens, merges, types if isinstance(types, list) else [], pre)
        self.vocabulary = len(tokens)
        self.longest_token = max((len(token.encode()) for token in tokens), default=1)
        """In bytes of text, at most: byte-level BPE spells each byte as one character of one or two bytes."""
        self.eos = _index(file, "tokenizer.ggml.eos_token_id")
        bos = _index(file, "tokenizer.ggml.bos_token_id")
        self._prefix = [bos] if metadata.get("tokenizer.ggml.add_bos_token") and bos >= 0 else []
        self._words = {"bos_token": _token(tokens, bos), "eos_token": _token(tokens, self.eos)}
        self._template = _template(metadata.get("tokenizer.chat_template"))

    def encode(self, text: str) -> list[int]:
        """Return the token ids; special tokens in the text are recognised, as everywhere else."""
        return self._prefix + self._encode(text)

    def encode_chat(self, messages: list[ChatMessage]) -> list[int]:
        """Return the token ids of a conversation, ready for the answer. Raises InvalidRequest where it does not fit.

        As in transformers, the rendered text is read as one: a message that spells the model's special tokens can pass
        for a turn. Who serves strangers must not take a role for a proof.
        """
        if self._template is None:
            raise InvalidRequest("the model has no chat template", param="messages", hint="Use /v1/completions")
        turns = [{"role": message.role, "content": message.content} for message in messages]
        try:
            text = self._template.render(messages=turns, add_generation_prompt=True, **self._words)
        except (TemplateError, TypeError, ValueError, ArithmeticError, LookupError) as error:
            # A template is code from outside, and written for conversations that it expects.
            raise InvalidRequest(f"the model's chat template refused: {error}", param="messages") from error
        return self._encode(text)

    def decode(self, ids: list[int]) -> str:
        """Return the text of token ids, without special tokens."""
        return str(self._tokenizer.decode_batch([ids], skip_special_tokens=True)[0])

    def _encode(self, text: str) -> list[int]:
        # As a batch: only then does the library let other threads run. Measured on 1.2 MB of words: the event loop of
        # a replica stood still for 870 ms with `encode`, for 10 ms with this.
        ids: list[int] = self._tokenizer.encode_batch([text], add_special_tokens=False)[0].ids
        return ids

    def stream(self) -> DetokenizerStream:
        """Return a decoder for one answer."""
        return DetokenizerStream(self, self._tokenizer)


class DetokenizerStream:
    """Turns the tokens of one answer into text as they come; what it returned is together what `decode` returns."""

    def __init__(self, owner: ModelTokenizer, tokenizer: Tokenizer) -> None:
        self._owner = owner
        self._tokenizer = tokenizer
        self._stream = DecodeStream(skip_special_tokens=True)
        self._ids: list[int] = []
        self._length = 0

    def step(self, token: int) -> str:
        """Return the text that the token completes; empty within a character of several tokens."""
        self._ids.append(token)
        text: str = self._stream.step(self._tokenizer, token) or ""
        self._length += len(text)
        return text

    def finish(self) -> str:
        """Return what is left: the replacement character of a cut one, say."""
        return self._owner.decode(self._ids)[self._length :]


def _strings(file: GGUFFile, key: str) -> list[str]:
    found = file.metadata.get(key)
    if not isinstance(found, list) or not all(isinstance(item, str) for item in found):
        raise InvalidModel(f"{file.path.name} has no texts as {key}", hint="Convert the model again")
    return found


def _index(file: GGUFFile, key: str) -> int:
    """Return a token's id; -1 when the model has no such token."""
    found = file.metadata.get(key)
    return found if isinstance(found, int) else -1


def _bpe(file: GGUFFile, tokens: list[str], merges: list[str], types: list[int], pre: str) -> Tokenizer:
    pairs = [(left, right) for left, _, right in (merge.partition(" ") for merge in merges)]
    try:
        model = BPE(vocab={token: i for i, token in enumerate(tokens)}, merges=pairs)
    except Exception as error:  # the library raises nothing more special
        raise InvalidModel(f"{file.path.name} has a broken vocabulary: {error}") from error
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(_PRE_TOKENIZERS[pre])
    tokenizer.decoder = decoders.ByteLevel()
    added = [
        AddedToken(tokens[i], special=kind == _CONTROL, normalized=False)
        for i, kind in enumerate(types[: len(tokens)])
        if kind in (_CONTROL, _USER_DEFINED)
    ]
    tokenizer.add_tokens(added)
    return tokenizer


def _token(tokens: list[str], index: int) -> str:
    return tokens[index] if 0 <= index < len(tokens) else ""


def _template(source: object) -> Any:
    """Return the compiled chat template. It comes from outside, so it runs in a sandbox that can change nothing.

    It finds what transformers gives it, and so what templates are written for.
    """
    if not isinstance(source, str):
        return None

    def raise_exception(message: str) -> None:
        raise TemplateError(message)

    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
    environment.globals["raise_exception"] = raise_exception
    environment.globals["strftime_now"] = lambda layout: datetime.now().astimezone().strftime(layout)
    environment.filters["tojson"] = partial(json.dumps, ensure_ascii=False)  # jinja2's own escapes for HTML
    try:
        return environment.from_string(source)
    except TemplateError as error:
        raise InvalidModel(f"the model's chat template is broken: {error}", hint="Convert the model again") from error
