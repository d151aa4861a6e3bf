"""Text to tokens and back, as the model's file says: byte-level BPE with its vocabulary, merges and chat template."""

from __future__ import annotations

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
        if kind != "gpt2" or pre not in _PRE_TOKENIZERS:
            raise InvalidModel(
                f"{file.path.name} has a tokenizer {kind}/{pre}",
                hint=f"This runtime knows gpt2 with: {', '.join(_PRE_TOKENIZERS)}",
            )
        tokens, merges = metadata.get("tokenizer.ggml.tokens"), metadata.get("tokenizer.ggml.merges")
        if not isinstance(tokens, list) or not isinstance(merges, list):
            raise InvalidModel(f"{file.path.name} has no vocabulary or no merges", hint="Convert the model again")
        self._tokenizer = _bpe(tokens, merges, metadata.get("tokenizer.ggml.token_type", []), pre)
        self.vocabulary = len(tokens)
        self.eos = int(metadata.get("tokenizer.ggml.eos_token_id", -1))
        bos = int(metadata.get("tokenizer.ggml.bos_token_id", -1))
        self._prefix = [bos] if metadata.get("tokenizer.ggml.add_bos_token") and bos >= 0 else []
        self._words = {"bos_token": _token(tokens, bos), "eos_token": _token(tokens, self.eos)}
        self._template = _template(metadata.get("tokenizer.chat_template"))

    def encode(self, text: str) -> list[int]:
        """Return the token ids; special tokens in the text are recognised, as everywhere else."""
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        return self._prefix + ids

    def encode_chat(self, messages: list[ChatMessage]) -> list[int]:
        """Return the token ids of a conversation, ready for the answer. Raises InvalidRequest where it does not fit."""
        if self._template is None:
            raise InvalidRequest("the model has no chat template", param="messages", hint="Use /v1/completions")
        turns = [{"role": message.role, "content": message.content} for message in messages]
        try:
            text = self._template.render(messages=turns, add_generation_prompt=True, **self._words)
        except TemplateError as error:
            raise InvalidRequest(f"the model's chat template refused: {error}", param="messages") from error
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        return ids

    def decode(self, ids: list[int]) -> str:
        """Return the text of token ids, without special tokens."""
        return str(self._tokenizer.decode(ids, skip_special_tokens=True))

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


def _bpe(tokens: list[str], merges: list[str], types: list[int], pre: str) -> Tokenizer:
    pairs = [(left, right) for left, _, right in (merge.partition(" ") for merge in merges)]
    tokenizer = Tokenizer(BPE(vocab={token: i for i, token in enumerate(tokens)}, merges=pairs))
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


def _template(source: str | None) -> Any:
    """Return the compiled chat template. It comes from outside, so it runs in a sandbox that can change nothing."""
    if source is None:
        return None

    def raise_exception(message: str) -> None:
        raise TemplateError(message)

    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
    environment.globals["raise_exception"] = raise_exception
    try:
        return environment.from_string(source)
    except TemplateError as error:
        raise InvalidModel(f"the model's chat template is broken: {error}", hint="Convert the model again") from error
