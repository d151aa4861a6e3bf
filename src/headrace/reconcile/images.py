"""Keys of the images that the pods of models use.

The chart has a value `images.KEY` for each, and passes it to the operator as `--image KEY=REFERENCE`.
"""

from __future__ import annotations

from collections.abc import Mapping

RUNTIME = "runtime"
"""The LLM runtime."""
RUNTIME_CUDA = "runtimeCuda"
"""The LLM runtime for pods whose resources name `nvidia.com/gpu`. Without it, they get RUNTIME."""
FETCH = "fetch"
"""The process that fetches a model's file."""

DEFAULT_IMAGES: Mapping[str, str] = {RUNTIME: "headrace-runtime-llm", FETCH: "headrace-fetch"}
"""The images that must be known; the references are those of local mode, which does not use them."""
