"""Settings of an object in config.json, each checked as it is read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from headrace.errors import InvalidModel
from headrace_models.gguf_config import MAX_VALUE


class Settings:
    """The settings of an object. `name`: the file's, for messages."""

    def __init__(self, name: str, values: Mapping[str, Any]) -> None:
        self.name = name
        self.values = values

    def get(self, key: str) -> Any:
        """Return a setting, unchecked."""
        return self.values.get(key)

    def number(self, key: str, default: float | None = None) -> float:
        """Return a positive number. Raises InvalidModel when there is none."""
        found = self.values.get(key)
        found = default if found is None else found
        if found is None:
            raise self.invalid(f"no {key}")
        if not isinstance(found, int | float) or isinstance(found, bool) or not 0 < found < MAX_VALUE:
            raise self.invalid(f"{str(found)[:80]} as {key}")
        return found

    def count(self, key: str, default: int | None = None) -> int:
        """Return a positive whole number. Raises InvalidModel when there is none."""
        found = self.number(key, default)
        if not isinstance(found, int):
            raise self.invalid(f"{found!r} as {key}, which is no whole number")
        return found

    def invalid(self, what: str, *, hint: str = "Check the model's config.json") -> InvalidModel:
        """Return the error of a file; `what` describes the fault."""
        return InvalidModel(f"{self.name} has {what}", hint=hint)

    def unsupported(self, what: str) -> InvalidModel:
        """Return the error of a setting that is not computed here."""
        return InvalidModel(
            f"{self.name} uses {what}, which is not supported", hint="docs/reference/llm-runtime.md lists what loads"
        )
