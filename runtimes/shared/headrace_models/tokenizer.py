"""The tokenizer of a model's file: encoding, decoding, and conversations by its chat template."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tokenizers import Tokenizer
from tokenizers.decoders import DecodeStream

from headrace.errors import InvalidModel
from headrace.serving.engine import Chat, ChatMessage, Constraint, MessageParser, ToolUse
from headrace.serving.errors import InvalidRequest
from headrace_models.chat_template import ChatTemplate
from headrace_models.dialects.dialect import Dialect
from headrace_models.dialects.reasoning import THINK
from headrace_models.model_file import ModelFile
from headrace_models.tokenizer_library import library_tokenizer


class ModelTokenizer:
    """The tokenizer of one model. Thread-safe: encoding and decoding have no side effects."""

    def __init__(self, file: ModelFile) -> None:
        vocabulary = file.vocabulary
        try:
            self._tokenizer = library_tokenizer(vocabulary)
        except Exception as error:  # the library has no narrower type
            raise InvalidModel(f"{file.path.name} has a broken vocabulary: {error}") from error
        self.vocabulary = len(vocabulary.tokens)
        self.longest_token = max(len(token.encode()) for token in vocabulary.tokens)
        """Upper bound, bytes of text: byte-level BPE writes a byte as one character of one or two bytes, SentencePiece
        as six characters."""
        self.ends = vocabulary.ends
        self.special = vocabulary.special
        self._prefix = list(vocabulary.prefix)
        self._template = ChatTemplate(file.chat_template, vocabulary.names)
        self._dialect = Dialect.of(self._template.source, vocabulary.special)

    def encode(self, text: str) -> list[int]:
        """Return the token ids; special tokens in the text are recognised, as in other engines."""
        return self._prefix + self._encode(text)

    def encode_chat(self, chat: Chat) -> list[int]:
        """Return the token ids of a conversation, ready for the answer.

        Raises InvalidRequest if the template rejects the conversation, or the model has no known form for tools.

        As in transformers, the rendered text is encoded as a whole: a message that contains the model's special tokens
        can imitate a turn. A role is therefore no proof of the author.
        """
        prompt = self._template.render(chat)
        if chat.tool_use is not None and chat.tool_use.tools and self._dialect.calls is None:
            raise InvalidRequest(
                "the format in which this model writes tool calls is not supported", param="tools", hint="Remove them"
            )
        return self._encode(prompt)

    def parser(self, chat: Chat) -> MessageParser | None:
        """Return a parser of an answer to the conversation; None: the answer is content only."""
        return self._dialect.parser(chat.tool_use, opened=self._opens_reasoning(chat.template_options))

    def tool_constraint(self, tool_use: ToolUse, template_options: Mapping[str, Any]) -> Constraint | None:
        """Return the constraint of an answer that must call a tool; None: it need not."""
        return self._dialect.tool_constraint(tool_use, opened=self._opens_reasoning(template_options))

    def _opens_reasoning(self, options: Mapping[str, Any]) -> bool:
        """Return whether a prompt ends with the opening marker of reasoning.

        Of a conversation of one word: the end of a prompt depends on the options only, and a long one takes long.
        """
        if not self._dialect.reasons:
            return False
        try:
            prompt = self._template.render(Chat((ChatMessage("user", "Hello"),), template_options=options))
        except InvalidRequest:
            return False
        return prompt.rstrip().endswith(THINK)

    def decode(self, ids: list[int]) -> str:
        """Return the text of token ids, without special tokens."""
        return str(self._tokenizer.decode_batch([ids], skip_special_tokens=True)[0])

    def definition(self) -> str:
        """Return the tokenizer in the format of tokenizer.json."""
        return str(self._tokenizer.to_str())

    def _encode(self, text: str) -> list[int]:
        # As a batch: only then does the library release the interpreter. Measured on 1.2 MB of words: the event loop of
        # a replica was blocked for 870 ms with `encode`, for 10 ms with this.
        ids: list[int] = self._tokenizer.encode_batch([text], add_special_tokens=False)[0].ids
        return ids

    def stream(self) -> DetokenizerStream:
        """Return a decoder for one answer."""
        return DetokenizerStream(self, self._tokenizer)


class DetokenizerStream:
    """Decodes the tokens of one answer incrementally; its results joined are what `decode` returns."""

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
        """Return the rest: the replacement character of an incomplete one, for example."""
        return self._owner.decode(self._ids)[self._length :]
