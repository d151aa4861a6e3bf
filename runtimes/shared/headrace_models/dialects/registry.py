"""The formats of tool calls, by what a model's chat template contains."""

from __future__ import annotations

from collections.abc import Callable

from headrace_models.dialects.call_format import CallFormat
from headrace_models.dialects.hermes import HERMES, is_hermes
from headrace_models.dialects.llama3 import LLAMA3, is_llama3
from headrace_models.dialects.mistral import MISTRAL, is_mistral

FORMATS: tuple[tuple[Callable[[str], bool], CallFormat], ...] = (
    (is_hermes, HERMES),
    (is_mistral, MISTRAL),
    (is_llama3, LLAMA3),
)


def call_format(template: str) -> CallFormat | None:
    """Return the format in which a chat template asks for tool calls; None: none that is known."""
    return next((found for matches, found in FORMATS if matches(template)), None)
