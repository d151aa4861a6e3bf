"""Which fields of a request pass: an allow list.

A field passes when the endpoint reads it, when no value of it can change the answer (`harmless`), or when its value
asks for nothing (`off`; null always does). Every other field is refused by name, in nested objects too. A list of what
is refused would ignore whatever field is added to an API later.
"""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, model_validator
from pydantic_core import PydanticCustomError
from typing_extensions import override

UNSUPPORTED = "unsupported"
"""pydantic's type of the errors that mean: well-formed, but not served here."""
MAX_QUOTED_CHARACTERS = 64
"""Of a field's name in an error: it comes from the client and may be megabytes."""
CLOSE = 0.75
"""Similarity from which an unknown field counts as misspelt (`maxTokens`, `temprature`)."""

HARMLESS = frozenset(
    {
        # Who sends the request: OpenAI uses it against abuse, and no model reads it.
        "user",
        "safety_identifier",
        # Labels of the request in the provider's or the engine's records. Nothing is recorded here.
        "metadata",
        "request_id",
        # Whether the provider keeps the answer for its dashboard. Nothing is kept here.
        "store",
        # Latency and price class.
        "service_tier",
        # Caches of prompts, by provider and engine: they make the same answer arrive sooner.
        "prompt_cache_key",
        "prompt_cache_retention",
        "prompt_cache_options",
        "cache_prompt",
        # Keeps tenants apart in a shared cache of prompts. This runtime shares none.
        "cache_salt",
        # Text that the answer will probably contain, to compute it faster.
        "prediction",
        # How many tools an answer may call. Tools are refused.
        "parallel_tool_calls",
    }
)
HARMLESS_IN_MESSAGES = frozenset(
    {
        # Sources that OpenAI cites beside an earlier answer; clients send the answer back as they got it.
        "annotations",
        # Anthropic's mark for a cache of prompts.
        "cache_control",
    }
)
HARMLESS_IN_PARTS = frozenset({"cache_control", "prompt_cache_breakpoint"})  # as in messages

OFF: Mapping[str, tuple[object, ...]] = {
    # OpenAI's. A field that only goes with another stands after it: the error names the first one of the table.
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
"""Fields that would change the answer, each with the values with which they do not."""
OFF_IN_MESSAGES: Mapping[str, tuple[object, ...]] = {
    "tool_calls": ([],),
    "refusal": ("",),
    "reasoning_content": ("",),
    "prefix": (False,),
}

_USE = "`{}` does the same here"
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
    "keep_alive": "How long an idle model stays is spec.scaling.idleTimeoutSeconds",
    **dict.fromkeys(("n", "best_of"), "Send the request once for each answer"),
}
"""What to do instead of a field that is refused; the rest are best left out."""
HINTS_IN_PARTS: Mapping[str, str] = dict.fromkeys(
    ("image_url", "image", "input_audio", "audio_url", "video_url", "file"), "This model reads text only"
)


class Fields(BaseModel):
    """An object of a request: read strictly (a number is no string), with its allow list."""

    model_config = ConfigDict(strict=True, frozen=True, allow_inf_nan=False)

    harmless: ClassVar[frozenset[str]] = frozenset()
    off: ClassVar[Mapping[str, tuple[object, ...]]] = {}
    hints: ClassVar[Mapping[str, str]] = HINTS
    _passing: ClassVar[frozenset[str]] = frozenset()
    """Fields of which any value passes. Made once: a body may have 100,000 parts, read on the event loop."""

    @classmethod
    @override
    def __pydantic_init_subclass__(cls, **_: Any) -> None:
        """Note which fields pass."""
        cls._passing = cls.harmless.union(cls.model_fields)

    @model_validator(mode="before")
    @classmethod
    def _refuse_unserved(cls, data: Any) -> Any:
        """Refuse the first field that is not on the list. Before the others are read: it may be why they look wrong."""
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
            # 0 is not false, nor 1 true: `logprobs: 0` asks for something.
            or any(value == off and isinstance(value, bool) == isinstance(off, bool) for off in cls.off.get(name, ()))
        )

    @classmethod
    def _hint(cls, name: str) -> str:
        if name in cls.hints:
            return cls.hints[name]
        close = [] if name in cls.off else get_close_matches(name.lower(), cls.model_fields, n=1, cutoff=CLOSE)
        return f"Did you mean `{close[0]}`?" if close else "Leave it out"
