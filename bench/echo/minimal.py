"""`headrace-llm` of the echo image: the shell that every runtime of ours lives in, around an engine without weights."""

from __future__ import annotations

import argparse

from serving.serving_echo import EchoEngine

from headrace.serving.engine import TextEngine
from headrace.serving.lifecycle import Runtime, run
from headrace.serving.openai.endpoints import OpenAIEndpoints


def main() -> int:
    """Serve until told to stop; return the exit code."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--served-model-name", required=True)
    parser.add_argument("--host", required=True)
    parser.add_argument("--port", type=int, required=True)
    options, _ = parser.parse_known_args()
    model: str = options.served_model_name
    runtime: Runtime[TextEngine] = Runtime(
        model=model,
        load=lambda _progress: EchoEngine(0.0),
        handlers=lambda replica, metrics: OpenAIEndpoints(replica, model, metrics).handlers(),
        on_ready=lambda: None,
    )
    return run(runtime, options.host, options.port)
