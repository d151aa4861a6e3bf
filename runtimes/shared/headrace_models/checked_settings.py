"""Settings of a model's file by key, each checked as it is read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from headrace.errors import InvalidModel

MAX_VALUE = 1e9
"""Limit of any count and of RoPE's base: far above any model; detects a corrupt file."""


class CheckedSettings:
    """Settings whose keys have a common prefix in the file. A value that is None counts as absent."""

    def __init__(self, file: str, values: Mapping[str, Any], *, hint: str, prefix: str = "") -> None:
        self.file = file
        """Its name, for messages."""
        self.values = values
        """By key with the prefix."""
        self._hint = hint
        self._prefix = prefix

    def __contains__(self, key: str) -> bool:
        return self.name(key) in self.values

    def get(self, key: str, default: Any = None) -> Any:
        """Return the key's value, unchecked."""
        found = self.values.get(self.name(key))
        return default if found is None else found

    def name(self, key: str) -> str:
        """Return the key as spelled in the file."""
        return f"{self._prefix}{key}"

    def number(self, key: str, default: float | None = None) -> float:
        """Return a positive number. Raises InvalidModel when there is none."""
        found = self.get(key, default)
        if found is None:
            raise self.invalid(f"no {self.name(key)}")
        if not isinstance(found, int | float) or isinstance(found, bool) or not 0 < found < MAX_VALUE:
            raise self.invalid(f"{str(found)[:80]} as {self.name(key)}")
        return found

    def count(self, key: str, default: int | None = None) -> int:
        """Return a positive whole number. Raises InvalidModel when there is none."""
        found = self.number(key, default)
        if not isinstance(found, int):
            raise self.invalid(f"{found!r} as {self.name(key)}, which is no whole number")
        return found

    def invalid(self, what: str, *, hint: str = "") -> InvalidModel:
        """Return the error of a file; `what` describes its fault."""
        return InvalidModel(f"{self.file} has {what}", hint=hint or self._hint)
