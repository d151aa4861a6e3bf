"""The allow list of request fields.

A field is accepted if the endpoint reads it, if no value of it can change the answer (`harmless`), or if its value
requests nothing (`off`; null always does). Every other field is rejected by name, in nested objects too. A deny list
would silently ignore fields that are added to an API later.
"""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, model_validator
from pydantic_core import PydanticCustomError
from typing_extensions import override

UNSUPPORTED = "unsupported"
"""pydantic's error type of fields that are well-formed but not supported."""
MAX_QUOTED_CHARACTERS = 64
"""Of a field's name in an error: it comes from the client and may be megabytes."""
CLOSE = 0.75
"""Similarity from which an unknown field counts as misspelt (`maxTokens`, `temprature`)."""

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
        # Isolates tenants in a shared prompt cache; this runtime shares none.
        "cache_salt",
        # Predicted text of the answer, to compute it faster.
        "prediction",
        # Number of tools that an answer may call; tools are rejected.
        "parallel_tool_calls",
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
    "functions": ([],),
    "function_call": ("none", "auto"),
    "n": (1,),
    "best_of": (1,),
    "logprobs": (False,),
    "top_logprobs": (0,),
    "echo": (False,),
    "suffix": ("",),
    "presence_penalty": (0,),
    "frequency_penalty": (0,),
    "logit_bias": ({},),
    "response_format": ({"type": "text"},),
    "modalities": (["text"],),
    "audio": (),
    "reasoning_effort": ("none",),
    "verbosity": ("medium",),
    # vLLM's and SGLang's
    "repetition_penalty": (1,),
    "length_penalty": (1,),
    "use_beam_search": (False,),
    "early_stopping": (False,),
    "min_tokens": (0,),
    "min_p": (0,),
    "typical_p": (1,),
    "include_stop_str_in_output": (False,),
    "no_stop_trim": (False,),
    "skip_special_tokens": (True,),
    "spaces_between_special_tokens": (True,),
    "bad_words": ([],),
    "logits_processors": ([],),
    "return_token_ids": (False,),
    "return_tokens_as_token_ids": (False,),
    "return_hidden_states": (False,),
    "include_reasoning": (True,),
    "add_generation_prompt": (True,),
    "continue_final_message": (False,),
    "chat_template_kwargs": ({},),
    "documents": ([],),
    "priority": (0,),
    "extra_body": ({},),
    # llama.cpp's and Ollama's
    "grammar": ("",),
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
    "stop_sequences": ([],),
    "options": ({},),
}
"""Fields that can change the answer, each with the values that do not."""
OFF_IN_MESSAGES: Mapping[str, tuple[object, ...]] = {
    "tool_calls": ([],),
    "refusal": ("",),
    "reasoning_content": ("",),
    "prefix": (False,),
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
    **dict.fromkeys(("extra_body", "options", "parameters", "sampling_params"), _FLATTEN),
    **dict.fromkeys(("num_ctx", "max_model_len"), "The model's length is spec.runtime.llm.maxModelLen"),
    "keep_alive": "The idle timeout of a model is spec.scaling.idleTimeoutSeconds",
    **dict.fromkeys(("n", "best_of"), "Send the request once for each answer"),
}
"""Hints for rejected fields; the hint for all others is to leave them out."""
HINTS_IN_PARTS: Mapping[str, str] = dict.fromkeys(
    ("image_url", "image", "input_audio", "audio_url", "video_url", "file"), "This model reads text only"
)


class Fields(BaseModel):
    """An object of a request: validated strictly (a number is not a string), with its allow list."""

    model_config = ConfigDict(strict=True, frozen=True, allow_inf_nan=False)

    harmless: ClassVar[frozenset[str]] = frozenset()
    off: ClassVar[Mapping[str, tuple[object, ...]]] = {}
    hints: ClassVar[Mapping[str, str]] = HINTS
    _passing: ClassVar[frozenset[str]] = frozenset()
    """Fields of which any value is accepted. Computed once: a body may have 100,000 parts, read on the event loop."""

    @classmethod
    @override
    def __pydantic_init_subclass__(cls, **_: Any) -> None:
        """Compute which fields are accepted."""
        cls._passing = cls.harmless.union(cls.model_fields)

    @model_validator(mode="before")
    @classmethod
    def _refuse_unserved(cls, data: Any) -> Any:
        """Reject the first unsupported field, before the others are validated: it may cause their errors."""
        if not isinstance(data, dict) or cls._passing.issuperset(data):
            return data
        unserved = [name for name, value in data.items() if not cls._passes(name, value)]
        if not unserved:
            return data
        order = {name: number for number, name in enumerate(cls.off)}
        name = min(unserved, key=lambda name: order.get(name, len(order)))[:MAX_QUOTED_CHARACTERS]
        raise PydanticCustomError(UNSUPPORTED, "`{field}` is not supported", {"field": name, "hint": cls._hint(name)})

    @classmethod
    def _passes(cls, name: str, value: object) -> bool:
        return (
            value is None
            or name in cls._passing
            # 0 is not false, nor 1 true: `logprobs: 0` requests something.
            or any(value == off and isinstance(value, bool) == isinstance(off, bool) for off in cls.off.get(name, ()))
        )

    @classmethod
    def _hint(cls, name: str) -> str:
        if name in cls.hints:
            return cls.hints[name]
        close = [] if name in cls.off else get_close_matches(name.lower(), cls.model_fields, n=1, cutoff=CLOSE)
        return f"Did you mean `{close[0]}`?" if close else "Leave it out"
