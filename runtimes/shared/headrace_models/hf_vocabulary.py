"""The tokens of a directory that transformers wrote: tokenizer.json and the settings beside it."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from headrace.errors import InvalidModel
from headrace_models.json_file import parse_object, read_object, read_text
from headrace_models.vocabulary import END_TEXTS, TokenizerJSON, Vocabulary

log = logging.getLogger(__name__)

MAX_TOKENIZER_BYTES = 64 << 20
"""Gemma's, of 262,144 tokens, has 33 MB."""
MAX_SETTINGS_BYTES = 4 << 20
_NAMES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")


def hf_vocabulary(directory: Path, config: Mapping[str, Any], rows: int) -> Vocabulary:
    """Return the vocabulary of a model of `rows` token ids; ids without a token are special.

    Raises InvalidModel if the files contradict one another or the tokenizer cannot be used.
    """
    path = directory / "tokenizer.json"
    text = read_text(path, MAX_TOKENIZER_BYTES)
    tokenizer, settings = parse_object(text, path.name), _optional(directory / "tokenizer_config.json")
    texts, special = _tokens(tokenizer, rows)
    ids = {each: i for i, each in texts.items()}
    names = {name: found for name in _NAMES if (found := _content(settings.get(name))) is not None}
    ends = {i for i, each in texts.items() if each in END_TEXTS}
    ends |= _end_ids(_optional(directory / "generation_config.json"), rows) | _end_ids(config, rows)
    ends |= {ids[names["eos_token"]]} if names.get("eos_token") in ids else set()
    if not ends:
        log.warning("%s has no token that ends an answer: answers end by length or stop strings", directory.name)
    tokens = [texts.get(i, f"[PAD{i}]") for i in range(rows)]
    unused = {i for i in range(rows) if i not in texts}
    return Vocabulary(
        tokens=tokens,
        encoding=TokenizerJSON(text),
        special={i: tokens[i] for i in sorted(special | ends | unused)},
        user_defined=frozenset(),
        ends=frozenset(ends),
        prefix=_prefix(tokenizer, ids),
        names=names,
    )


def hf_chat_template(directory: Path) -> object:
    """Return the source of the chat template; None: there is none. Raises InvalidModel if a file cannot be read."""
    path = directory / "chat_template.jinja"
    if path.exists():
        return read_text(path, MAX_SETTINGS_BYTES)
    found = _optional(directory / "tokenizer_config.json").get("chat_template")
    if not isinstance(found, list):
        return found
    named = {each.get("name"): each.get("template") for each in found if isinstance(each, dict)}
    return named.get("default")


def _optional(path: Path) -> dict[str, Any]:
    return read_object(path, MAX_SETTINGS_BYTES) if path.exists() else {}


def _content(token: object) -> str | None:
    """Return the text of a special token: a string, or an object with it."""
    found = token.get("content") if isinstance(token, dict) else token
    return found if isinstance(found, str) else None


def _tokens(tokenizer: Mapping[str, Any], rows: int) -> tuple[dict[int, str], set[int]]:
    """Return the texts by id, and the ids of special tokens."""
    model, added = tokenizer.get("model"), tokenizer.get("added_tokens") or []
    vocabulary = model.get("vocab") if isinstance(model, dict) else None
    if not isinstance(vocabulary, dict) or not isinstance(added, list):
        raise _invalid("no model.vocab of tokens and ids")
    texts: dict[int, str] = {}
    special = set()
    entries = [(text, i) for text, i in vocabulary.items()]
    for token in added:
        match token:
            case {"id": int(i), "content": str(text)}:
                entries.append((text, i))
                special |= {i} if token.get("special") is True else set()
            case _:
                raise _invalid(f"a broken entry in added_tokens: {str(token)[:80]}")
    for text, i in entries:
        if not isinstance(i, int) or isinstance(i, bool) or not 0 <= i < rows:
            raise _invalid(
                f"the token {text[:80]!r} with the id {str(i)[:80]}, and the model has {rows} rows of embedding"
            )
        if texts.setdefault(i, text) != text:
            raise _invalid(f"the tokens {texts[i][:80]!r} and {text[:80]!r} with the id {i}")
    return texts, special


def _end_ids(settings: Mapping[str, Any], rows: int) -> set[int]:
    found = settings.get("eos_token_id")
    ids = found if isinstance(found, list) else [] if found is None else [found]
    for i in ids:
        if not isinstance(i, int) or isinstance(i, bool) or not 0 <= i < rows:
            raise InvalidModel(
                f"eos_token_id = {str(i)[:80]}, and the model has {rows} rows of embedding",
                hint="Check config.json and generation_config.json",
            )
    return set(ids)


def _prefix(tokenizer: Mapping[str, Any], ids: Mapping[str, int]) -> tuple[int, ...]:
    """Return the tokens that the post-processor puts before a text."""
    processor = tokenizer.get("post_processor") or {}
    steps = processor.get("processors") or [] if processor.get("type") == "Sequence" else [processor]
    prefix: list[int] = []
    for step in steps:
        kind = step.get("type")
        if kind in (None, "ByteLevel"):
            continue
        if kind != "TemplateProcessing":
            raise _invalid(f"the post_processor {str(kind)[:80]}, which is not supported")
        for part in step.get("single") or []:
            match part:
                case {"SpecialToken": {"id": str(text)}} if text in ids:
                    prefix.append(ids[text])
                case {"Sequence": _} if part is step["single"][-1]:
                    pass
                case _:
                    raise _invalid(f"a post_processor with {str(part)[:80]}, which is not supported")
    return tuple(prefix)


def _invalid(what: str) -> InvalidModel:
    return InvalidModel(f"tokenizer.json has {what}", hint="Check the model's directory")
