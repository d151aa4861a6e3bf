"""Settings of an object in config.json."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from headrace.errors import InvalidModel
from headrace_models.checked_settings import CheckedSettings


class Settings(CheckedSettings):
    """The settings of an object. `file`: where it is, for messages."""

    def __init__(self, file: str, values: Mapping[str, Any]) -> None:
        super().__init__(file, values, hint="Check the model's config.json")

    def unsupported(self, what: str) -> InvalidModel:
        """Return the error of a setting that is not computed here."""
        return InvalidModel(
            f"{self.file} uses {what}, which is not supported", hint="docs/reference/llm-runtime.md lists what loads"
        )
