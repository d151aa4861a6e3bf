"""Which fields of a request are read, refused or ignored.

A field is accepted if the endpoint reads it, if no value of it can change the answer (`harmless`), or if its value
requests nothing (`off`; null always does). A known field with another value is refused by name, in nested objects too,
and so is a name that is close to a known one, which is most likely misspelt. Any other field is ignored and named in
the header `x-headrace-warning` of the answer.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, ValidationInfo, model_validator
from pydantic_core import PydanticCustomError
from typing_extensions import override

UNSUPPORTED = "unsupported"
"""pydantic's error type of fields that are well-formed but not supported."""
MAX_QUOTED_CHARACTERS = 64
"""Of a field's name in an error: it comes from the client and may be megabytes."""
MAX_CLOSE_CHARACTERS = 32
"""Longest name that is compared with the known ones: the comparison takes quadratic time."""
MAX_IGNORED = 16
"""Ignored fields that are named; an object may have thousands."""
CLOSE = 0.8
"""Similarity from which an unknown field counts as misspelt (`maxTokens`, `temprature`)."""
_UNSAFE = re.compile(r"[^\w.\[\]-]", re.ASCII)
"""Characters that a header does not repeat."""

HARMLESS = frozenset(
    {
        # Identifies the end user for abuse detection; no model reads it.
        "user",
        "safety_identifier",
        # Labels of the request in records of the provider or engine; there are none here.
        "metadata",
        "request_id",
        # Whether the provider stores the answer for its dashboard; there is none here.
        "store",
        # Latency and price class.
        "service_tier",
        # Prompt caches of providers and engines: they only reduce the latency.
        "prompt_cache_key",
        "prompt_cache_retention",
        "prompt_cache_options",
        "cache_prompt",
        # Predicted text of the answer, to compute it faster.
        "prediction",
    }
)
HARMLESS_IN_MESSAGES = frozenset(
    {
        # Sources cited in an earlier answer, which clients send back unchanged.
        "annotations",
        # Anthropic's marker for prompt caching.
        "cache_control",
    }
)
HARMLESS_IN_PARTS = frozenset({"cache_control", "prompt_cache_breakpoint"})  # as in messages

OFF: Mapping[str, tuple[object, ...]] = {
    # OpenAI's. A field that depends on another one follows it: the error is about the first one in the table.
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "parallel_tool_calls": (True, False),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "n": (1,),
    "best_of": (1,),
    "logprobs": (False,),
    "top_logprobs": (0,),
    "echo": (False,),
    "suffix": ("",),
    "modalities": (["text"],),
    "audio": (),
    "reasoning": (),
    "reasoning_effort": ("none",),
    "thinking": (),
    "verbosity": ("medium",),
    "web_search_options": (),
    "moderation": (),
    "background": (False,),
    "dimensions": (),
    # vLLM's and SGLang's
    "length_penalty": (1,),
    "use_beam_search": (False,),
    "early_stopping": (False,),
    "typical_p": (1,),
    "no_stop_trim": (False,),
    "skip_special_tokens": (True,),
    "spaces_between_special_tokens": (True,),
    "bad_words": ([],),
    "allowed_token_ids": (),
    "logits_processors": ([],),
    "prompt_logprobs": (),
    "truncate_prompt_tokens": (),
    "return_token_ids": (False,),
    "return_tokens_as_token_ids": (False,),
    "return_hidden_states": (False,),
    "include_reasoning": (True,),
    "separate_reasoning": (True,),
    "add_generation_prompt": (True,),
    "continue_final_message": (False,),
    "chat_template": (),
    "chat_template_kwargs": ({},),
    "documents": ([],),
    "priority": (0,),
    "guided_json": (),
    "guided_regex": (),
    "guided_choice": (),
    "guided_grammar": (),
    "json_schema": (),
    "regex": (),
    "ebnf": (),
    "lora_path": (),
    "extra_body": ({},),
    # llama.cpp's and Ollama's
    "grammar": ("",),
    "samplers": (),
    "repeat_penalty": (1,),
    "no_repeat_ngram_size": (0,),
    "mirostat": (0,),
    "tfs_z": (1,),
    "typ_p": (1,),
    "top_a": (0,),
    "dry_multiplier": (0,),
    "xtc_probability": (0,),
    "n_probs": (0,),
    "lora": ([],),
    "format": (),
    "raw": (False,),
    "think": (False,),
    "enable_thinking": (),
    "stop_sequences": ([],),
    "options": ({},),
}
"""Fields that can change the answer, each with the values that do not. Endpoints read some of them."""
OFF_IN_MESSAGES: Mapping[str, tuple[object, ...]] = {
    "tool_calls": ([],),
    "tool_call_id": (),
    "function_call": (),
    "audio": (),
    "images": ([],),
    "refusal": ("",),
    "reasoning_content": ("",),
    "prefix": (False,),
    "thinking": (),
}

_USE = "Use `{}`"
_FLATTEN = "Send its fields beside `model`"
HINTS: Mapping[str, str] = {
    **dict.fromkeys(
        ("max_new_tokens", "n_predict", "num_predict", "max_output_tokens", "max_tokens_to_sample"),
        _USE.format("max_tokens"),
    ),
    **dict.fromkeys(("stop_sequences", "stop_strings"), _USE.format("stop")),
    **dict.fromkeys(("eos_token_id", "stop_tokens"), _USE.format("stop_token_ids")),
    "random_seed": _USE.format("seed"),
    "repeat_penalty": _USE.format("repetition_penalty"),
    **dict.fromkeys(
        (
            *("guided_json", "guided_regex", "guided_choice", "guided_grammar"),
            *("grammar", "json_schema", "regex", "ebnf", "format"),
        ),
        _USE.format("structured_outputs"),
    ),
    **dict.fromkeys(("functions", "function_call"), _USE.format("tools")),
    **dict.fromkeys(
        ("enable_thinking", "thinking", "think", "reasoning", "reasoning_effort"), _USE.format("chat_template_kwargs")
    ),
    **dict.fromkeys(("extra_body", "options", "parameters", "sampling_params"), _FLATTEN),
    **dict.fromkeys(("num_ctx", "max_model_len"), "The model's length is spec.runtime.llm.maxModelLen"),
    "keep_alive": "The idle timeout of a model is spec.scaling.idleTimeoutSeconds",
}
"""Hints for rejected fields; the hint for all others is to leave them out."""
HINTS_IN_PARTS: Mapping[str, str] = dict.fromkeys(
    ("image_url", "image", "input_audio", "audio_url", "video_url", "file"), "This model reads text only"
)


class Fields(BaseModel):
    """An object of a request: validated strictly (a number is not a string), with its known fields.

    Validation takes a list as context, to which it appends the names of ignored fields.
    """

    model_config = ConfigDict(
        strict=True,
        frozen=True,
        allow_inf_nan=False,
        defer_build=True,  # of all endpoints, the first request uses one, and a replica's start waits for its imports
    )

    where: ClassVar[str] = ""
    """Path of the object in the body, for the names of ignored fields."""
    harmless: ClassVar[frozenset[str]] = frozenset()
    off: ClassVar[Mapping[str, tuple[object, ...]]] = {}
    hints: ClassVar[Mapping[str, str]] = HINTS
    _passing: ClassVar[frozenset[str]] = frozenset()
    """Fields of which any value is accepted. Computed once: a body may have 100,000 parts, read on the event loop."""

    @classmethod
    @override
    def __pydantic_init_subclass__(cls, **_: Any) -> None:
        """Compute which fields are accepted."""
        cls._passing = cls.harmless.union(field.alias or name for name, field in cls.model_fields.items())

    @model_validator(mode="before")
    @classmethod
    def _sort_out(cls, data: Any, info: ValidationInfo) -> Any:
        """Reject the first unsupported field, before the others are validated: it may cause their errors."""
        if not isinstance(data, dict) or cls._passing.issuperset(data):
            return data
        rest = [name for name, value in data.items() if not cls._passes(name, value)]
        refused = [name for name in rest if name in cls.off or name in cls.hints]
        ignored: list[str] = info.context if isinstance(info.context, list) else []
        for name in rest:
            label = _UNSAFE.sub("?", f"{cls.where}{name[:MAX_QUOTED_CHARACTERS]}")
            if name in refused or label in ignored or len(ignored) >= MAX_IGNORED:
                continue
            if cls._close(name):
                refused.append(name)
                break
            ignored.append(label)
        if refused:
            order = {name: number for number, name in enumerate(cls.off)}
            name = min(refused, key=lambda name: order.get(name, len(order)))
            context = {"field": name[:MAX_QUOTED_CHARACTERS], "hint": cls._hint(name)}
            raise PydanticCustomError(UNSUPPORTED, "`{field}` is not supported", context)
        return data

    @classmethod
    def _passes(cls, name: str, value: object) -> bool:
        return (
            value is None
            or name in cls._passing
            # 0 is not false, nor 1 true: `logprobs: 0` requests something.
            or any(value == off and isinstance(value, bool) == isinstance(off, bool) for off in cls.off.get(name, ()))
        )

    @classmethod
    def _close(cls, name: str) -> str | None:
        """Return the field that is most likely meant by an unknown name."""
        if len(name) > MAX_CLOSE_CHARACTERS:
            return None
        close = get_close_matches(_snake(name), [*cls.model_fields, *cls.off], n=1, cutoff=CLOSE)
        return close[0] if close else None

    @classmethod
    def _hint(cls, name: str) -> str:
        if name in cls.hints:
            return cls.hints[name]
        close = None if name in cls.off else cls._close(name)
        return f"Did you mean `{close}`?" if close else "Leave it out"


def _snake(name: str) -> str:
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower()
