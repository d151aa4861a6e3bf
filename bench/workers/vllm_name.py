"""Imported before vLLM: its CPU build has a distribution of another name, which it does not find by itself."""

from __future__ import annotations

import importlib.metadata

VERSION = "0.32.0+cpu"
"""What the package calls itself."""
_version = importlib.metadata.version
importlib.metadata.version = lambda distribution_name: (
    VERSION if distribution_name == "vllm" else _version(distribution_name)
)
