"""The tokens of a model from its GGUF file: their texts, and the meaning of special tokens.

Which tokens end an answer: those that the file names (`eos`, `eot`, `eom`), and those whose text is a well-known end
of a turn, as in llama.cpp: the converters of many instruct models name the end of the text only.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from headrace.errors import InvalidModel
from headrace_models.gguf import GGUFFile

log = logging.getLogger(__name__)

PRE_TOKENIZERS = ("smollm", "gpt-2")
"""Values of `tokenizer.ggml.pre` that are served: how text is split before merging. None in the file means gpt-2."""
END_TEXTS = frozenset(
    {
        "<|endoftext|>",
        "<|end_of_text|>",
        "<|im_end|>",
        "<|eot_id|>",
        "<|eom_id|>",
        "<|end|>",
        "<end_of_turn>",
        "<end_of_utterance>",
        "<EOT>",
        "_<EOT>",
    }
)
"""Tokens that end an answer even if the file does not name them. llama.cpp's list without gpt-oss's, whose <|end|>
ends only a part of the answer: that model is of another architecture."""
_END_KEYS = ("eos", "eot", "eom")
_TEMPLATE_NAMES = {
    "bos_token": "bos",
    "eos_token": "eos",
    "unk_token": "unknown",
    "sep_token": "seperator",  # the key's spelling in GGUF
    "pad_token": "padding",
    "cls_token": "cls",
    "mask_token": "mask",
}
"""Names of special tokens in chat templates, and in files."""
_PREFIX, _SUFFIX = "tokenizer.ggml.", "_token_id"
_CONTROL, _USER_DEFINED = 3, 4
_TYPES = range(7)
"""Types of tokens in GGUF."""


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """A file's tokens, checked: each id in it is a token's."""

    tokens: list[str]
    merges: list[str]
    pre: str
    """How text is split before merging: one of `PRE_TOKENIZERS`."""
    special: Mapping[int, str]
    """Tokens whose text is not part of an answer: control tokens, and those that end it."""
    user_defined: frozenset[int]
    """Tokens of text that are matched as a whole."""
    ends: frozenset[int]
    """Tokens that end an answer."""
    prefix: tuple[int, ...]
    """Tokens that each text begins with."""
    names: Mapping[str, str]
    """Special tokens by their names in chat templates, for example `bos_token`."""

    @classmethod
    def of(cls, file: GGUFFile) -> Vocabulary:
        """Return the vocabulary. Raises InvalidModel if it contradicts itself or its type is not supported."""
        pre = _pre_tokenizer(file)
        tokens, merges = _texts(file, "tokens"), _texts(file, "merges")
        if len(set(tokens)) != len(tokens):
            ((twice, _),) = Counter(tokens).most_common(1)
            raise _invalid(file, f"the token {twice!r} twice")
        types, ids = _types(file, len(tokens)), _special_ids(file, len(tokens))
        ends = frozenset(ids[key] for key in _END_KEYS if key in ids)
        ends |= {i for i, token in enumerate(tokens) if token in END_TEXTS}
        if not ends:
            # A base model may have none; its answers then end at `max_tokens`.
            log.warning("%s has no token that ends an answer: answers end by length or stop strings", file.path.name)
        control = {i for i, kind in enumerate(types) if kind == _CONTROL} | ends
        if file.metadata.get(f"{_PREFIX}add_bos_token") and "bos" not in ids:
            raise _invalid(file, f"{_PREFIX}add_bos_token without {_PREFIX}bos{_SUFFIX}")
        return cls(
            tokens=tokens,
            merges=merges,
            pre=pre,
            special={i: tokens[i] for i in sorted(control)},
            user_defined=frozenset(i for i, kind in enumerate(types) if kind == _USER_DEFINED) - control,
            ends=ends,
            prefix=(ids["bos"],) if file.metadata.get(f"{_PREFIX}add_bos_token") else (),
            names={name: tokens[ids[key]] for name, key in _TEMPLATE_NAMES.items() if key in ids},
        )


def _pre_tokenizer(file: GGUFFile) -> str:
    model, pre = file.metadata.get(f"{_PREFIX}model"), file.metadata.get(f"{_PREFIX}pre", "gpt-2")
    if model != "gpt2" or pre not in PRE_TOKENIZERS:
        raise InvalidModel(
            f"{file.path.name} has the tokenizer {model!r} with the pre-tokenizer {pre!r}, which is not supported",
            hint=f"This runtime serves 'gpt2' with: {', '.join(PRE_TOKENIZERS)}",
        )
    return str(pre)


def _texts(file: GGUFFile, key: str) -> list[str]:
    found = file.metadata.get(f"{_PREFIX}{key}")
    if not isinstance(found, list) or not all(isinstance(item, str) for item in found):
        raise _invalid(file, f"no texts as {_PREFIX}{key}")
    return found


def _types(file: GGUFFile, count: int) -> list[int]:
    """Return the tokens' types; none when the file has none."""
    types = file.metadata.get(f"{_PREFIX}token_type", [])
    if not isinstance(types, list) or len(types) not in (0, count):
        raise _invalid(file, f"no {_PREFIX}token_type for each of its {count} tokens")
    if not all(isinstance(kind, int) and kind in _TYPES for kind in types):
        raise _invalid(file, f"an unknown type of token in {_PREFIX}token_type")
    return types


def _special_ids(file: GGUFFile, count: int) -> dict[str, int]:
    """Return the ids of the special tokens by their names in the file; unused ones are checked, too."""
    ids = {}
    for key, value in file.metadata.items():
        if key.startswith(_PREFIX) and key.endswith(_SUFFIX):
            if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < count:
                raise _invalid(file, f"{key} = {str(value)[:80]}, and {count} tokens")
            ids[key.removeprefix(_PREFIX).removesuffix(_SUFFIX)] = value
    return ids


def _invalid(file: GGUFFile, what: str) -> InvalidModel:
    return InvalidModel(f"{file.path.name} has {what}", hint="Convert the model again")
