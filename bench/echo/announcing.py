"""`headrace-echo`: the serving shell of headrace's runtimes around an engine without weights."""

from __future__ import annotations

import argparse

from serving.serving_echo import EchoEngine

from headrace.serving.engine import TextEngine
from headrace.serving.lifecycle import Runtime, run
from headrace.serving.text import text_handlers


def main() -> int:
    """Serve until SIGTERM; return the exit code."""
    parser = argparse.ArgumentParser()
    parser.add_argument("model", help="name of the model in requests")
    model: str = parser.parse_args().model
    runtime: Runtime[TextEngine] = Runtime(
        model=model,
        load=lambda _progress: EchoEngine(0.0),
        handlers=lambda replica, metrics: text_handlers(replica, model, metrics),
        on_ready=lambda: None,
    )
    return run(runtime, "0.0.0.0", 8000)
