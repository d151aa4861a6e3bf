"""What a warm process has done before it knows its model: it has imported the modules and loaded the native library."""

from __future__ import annotations

import contextlib
import importlib

from headrace_models.native.build import NoNativeLibrary
from headrace_models.native.library import native

MODULES = ("headrace_llm.server", "headrace_llm.engine", "headrace_models.model_file")
"""Those that a server imports late, and what they import."""


def load_libraries() -> None:
    """Import and load what any model needs."""
    for module in MODULES:
        importlib.import_module(module)
    with contextlib.suppress(NoNativeLibrary):  # the first model reports it
        native()
