"""The tokens of a GGUF file.

Which tokens end an answer: those that the file names (`eos`, `eot`, `eom`), and those whose text is a well-known end
of a turn, as in llama.cpp: the converters of many instruct models name the end of the text only.
"""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Callable, Mapping

from headrace.errors import InvalidModel
from headrace_models.gguf import GGUFFile
from headrace_models.vocabulary import END_TEXTS, BytePairs, Pieces, Vocabulary

log = logging.getLogger(__name__)

PRE_TOKENIZERS = ("smollm", "gpt-2", "qwen2", "llama-bpe")
"""Values of `tokenizer.ggml.pre` that are served with `tokenizer.ggml.model` gpt2: how text is split before merging.
None in the file means gpt-2."""
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
_NORMAL, _CONTROL, _USER_DEFINED = 1, 3, 4
_TYPES = range(7)
"""Types of tokens in GGUF."""


def gguf_vocabulary(file: GGUFFile) -> Vocabulary:
    """Return the vocabulary. Raises InvalidModel if it contradicts itself or its type is not supported."""
    read = _reader(file)
    tokens = _texts(file, "tokens")
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
    # As in llama.cpp: SentencePiece's texts begin with this token unless the file says otherwise.
    add_bos = file.metadata.get(f"{_PREFIX}add_bos_token", read is _pieces)
    if add_bos and "bos" not in ids:
        raise _invalid(file, f"{_PREFIX}add_bos_token without {_PREFIX}bos{_SUFFIX}")
    return Vocabulary(
        tokens=tokens,
        encoding=read(file, tokens, types, ids),
        special={i: tokens[i] for i in sorted(control)},
        user_defined=frozenset(i for i, kind in enumerate(types) if kind == _USER_DEFINED) - control,
        ends=ends,
        prefix=(ids["bos"],) if add_bos else (),
        names={name: tokens[ids[key]] for name, key in _TEMPLATE_NAMES.items() if key in ids},
    )


_Reader = Callable[[GGUFFile, list[str], list[int], Mapping[str, int]], BytePairs | Pieces]


def _reader(file: GGUFFile) -> _Reader:
    """Return what reads the file's type of tokenizer."""
    model, pre = file.metadata.get(f"{_PREFIX}model"), file.metadata.get(f"{_PREFIX}pre", "gpt-2")
    if model == "llama":
        return _pieces
    if model != "gpt2" or pre not in PRE_TOKENIZERS:
        raise InvalidModel(
            f"{file.path.name} has the tokenizer {model!r} with the pre-tokenizer {pre!r}, which is not supported",
            hint=f"This runtime serves 'llama', and 'gpt2' with: {', '.join(PRE_TOKENIZERS)}",
        )
    return _byte_pairs


def _byte_pairs(file: GGUFFile, tokens: list[str], types: list[int], ids: Mapping[str, int]) -> BytePairs:
    del tokens, types, ids
    return BytePairs(_texts(file, "merges"), str(file.metadata.get(f"{_PREFIX}pre", "gpt-2")))


def _pieces(file: GGUFFile, tokens: list[str], types: list[int], ids: Mapping[str, int]) -> Pieces:
    scores = file.metadata.get(f"{_PREFIX}scores")
    if not isinstance(scores, list) or len(scores) != len(tokens):
        raise _invalid(file, f"no {_PREFIX}scores for each of its {len(tokens)} tokens")
    if not all(isinstance(score, float) and math.isfinite(score) for score in scores):
        raise _invalid(file, f"scores in {_PREFIX}scores that are not numbers")
    kinds = types or [_NORMAL] * len(tokens)
    return Pieces(
        scores={token: score for token, score, kind in zip(tokens, scores, kinds, strict=True) if kind == _NORMAL},
        space_prefix=file.metadata.get(f"{_PREFIX}add_space_prefix", True) is not False,
        unknown=tokens[ids["unknown"]] if "unknown" in ids else None,
    )


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
