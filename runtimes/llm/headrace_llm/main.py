"""`headrace-llm serve PATH`: an OpenAI-compatible server for one model file, standalone or in a pod."""

from __future__ import annotations

import argparse
import gc
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from headrace.serving.log import configure_logging
from headrace.standby import COMMAND as STANDBY

if TYPE_CHECKING:
    from headrace_llm.loading import DecoderOpener

MAX_PORT = 65535
SERVE_DESCRIPTION = "Serve a GGUF file, or a directory with safetensors, with OpenAI's API, until Ctrl-C or SIGTERM."
SPIN_COUNT = "10000"
"""How long torch's threads spin for each other (GOMP_SPINCOUNT). The library's default stalls for a second at
a time when two replicas share two cores. Measured, a step alone / of each of two, p50 (worst): its own 28 ms / 115 ms
(1250 ms); 10000 29 ms / 98 ms (101 ms); never awake 47 ms / 50 ms (173 ms)."""


def main(argv: list[str] | None = None) -> int:
    """Run the command and return its exit code."""
    options = _parser().parse_args(argv)
    if options.command == STANDBY:
        arguments = _standby(options.descriptor, options.host, options.port)
        return 0 if arguments is None else main(arguments)
    return serve_model(options)


def serve_model(options: argparse.Namespace, opener: DecoderOpener | None = None) -> int:
    """Serve a model by the options of `add_serve_options` until a signal; return the exit code.

    `opener` makes the decoder; by default, one with all weights in memory.
    """
    gc.disable()  # until the engine is loaded: objects of imports stay, and need not be traversed
    os.environ.setdefault("GOMP_SPINCOUNT", SPIN_COUNT)  # read when torch is imported
    from headrace_llm.loading import DType, ModelLoading  # noqa: PLC0415 - `--help` does not wait for these imports
    from headrace_llm.settings import LLMSettings  # noqa: PLC0415 - as above

    settings = LLMSettings(
        path=options.path,
        model=options.served_model_name or options.path.stem,
        max_model_len=options.max_model_len,
        max_concurrent_requests=options.max_concurrent_requests,
        threads=options.threads,
        scheduler=options.scheduler,
        token_budget=options.token_budget,
        kv_layout=options.kv_layout,
        kv_cache_tokens=options.kv_cache_tokens,
        dtype=options.dtype,
        prefix_cache=options.prefix_cache,
        speculation=options.speculation,
        adapters=dict(options.adapter),
    )
    configure_logging()
    loading = ModelLoading(
        settings.path, dtype=DType(settings.dtype), threads=settings.computing_threads, opener=opener
    )
    from headrace_llm.server import serve  # noqa: PLC0415 - the model loads during these imports

    return serve(
        settings, loading, options.host, options.port, lambda: _greet(settings.model, options.host, options.port)
    )


def _standby(descriptor: int | None, host: str, port: int) -> list[str] | None:
    """Load what any model needs, and wait for the arguments; None if the process is not needed any more."""
    gc.disable()
    from headrace_llm.warming import load_libraries  # noqa: PLC0415 - see main

    if descriptor is None:
        from headrace.serving.standby import await_launch  # noqa: PLC0415 - only a standby pod needs it

        return await_launch(host, port, load_libraries)
    from headrace.standby import await_launch as await_local_launch  # noqa: PLC0415 - only a warm process needs it

    load_libraries()
    return await_local_launch(descriptor)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="headrace-llm", description="Serve a language model.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    serve = commands.add_parser(
        "serve",
        help="serve a model",
        description=SERVE_DESCRIPTION,
    )
    add_serve_options(serve)
    standby = commands.add_parser(
        STANDBY, help="load libraries, and wait for a launch: on a socket in local mode, on NATS in a standby pod"
    )
    standby.add_argument("descriptor", type=int, nargs="?", metavar="FD", help="of a connected Unix socket")
    _add_address(standby)
    return parser


def add_serve_options(serve: argparse.ArgumentParser) -> None:
    """Add the options of `serve_model` to a command."""
    serve.add_argument("path", type=Path, help="the model's file")
    serve.add_argument(
        "--served-model-name", metavar="NAME", help="the model's name in requests (default: the file's name)"
    )
    _add_address(serve)
    serve.add_argument(
        "--max-model-len",
        type=_positive,
        default=2048,
        metavar="TOKENS",
        help="longest prompt and answer together (default: %(default)s)",
    )
    serve.add_argument(
        "--max-concurrent-requests",
        type=_positive,
        default=16,
        metavar="N",
        help="requests that run at once (default: %(default)s)",
    )
    serve.add_argument(
        "--threads", type=_positive, metavar="N", help="threads that compute (default: as many as usable cores)"
    )
    serve.add_argument(
        "--adapter",
        type=_adapter,
        action="append",
        default=[],
        metavar="NAME=PATH",
        help="a LoRA adapter, and its name in requests; may be repeated",
    )
    _add_engine_options(serve)


def _add_address(command: argparse.ArgumentParser) -> None:
    command.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    command.add_argument("--port", type=_port, default=8000, help="port to listen on (default: %(default)s)")


def _add_engine_options(serve: argparse.ArgumentParser) -> None:
    serve.add_argument(
        "--scheduler",
        choices=("sarathi", "splitfuse", "prefill-first", "static", "flover"),
        default="sarathi",
        help="which tokens a step computes (default: %(default)s, which never pauses a running answer)",
    )
    serve.add_argument(
        "--token-budget",
        type=_positive,
        metavar="TOKENS",
        help="tokens per step; fewer make answers more even and prompts slower"
        " (default: 256, or twice --max-concurrent-requests if that is more)",
    )
    serve.add_argument(
        "--kv-layout",
        choices=("paged", "slots"),
        help="small blocks that requests share, or one piece per request (default: paged; slots with flover)",
    )
    serve.add_argument(
        "--kv-cache-tokens",
        type=_positive,
        metavar="TOKENS",
        help="tokens in the cache of keys and values; if requests need more, the newest is computed again later"
        " (default: --max-model-len for each of --max-concurrent-requests)",
    )
    serve.add_argument(
        "--dtype",
        choices=("auto", "float32"),
        default="auto",
        help="precision: as in the file, or the reference's float32, which is slower (default: %(default)s)",
    )
    serve.add_argument(
        "--prefix-cache",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="whether equal beginnings of prompts are computed once (default: yes)",
    )
    serve.add_argument(
        "--speculation",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="whether repetitions are computed several tokens per step, with the same result (default: yes)",
    )


def _adapter(text: str) -> tuple[str, Path]:
    name, _, path = text.partition("=")
    if not name or not path:
        raise argparse.ArgumentTypeError(f"{text} is not NAME=PATH")
    return name, Path(path)


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is not 1 or more")
    return number


def _port(text: str) -> int:
    number = int(text)
    if not 1 <= number <= MAX_PORT:
        raise argparse.ArgumentTypeError(f"{text} is not from 1 to {MAX_PORT}")
    return number


def _greet(model: str, host: str, port: int) -> None:
    """Print an example request if the server is standalone; a replica serves gateways only."""
    from headrace.serving.identity import Identity  # noqa: PLC0415 - see main

    if Identity.of(os.environ) is not None:
        return
    url = f"http://{host}:{port}/v1"
    messages = [{"role": "user", "content": "What is the capital of France?"}]
    body = json.dumps({"model": model, "messages": messages, "temperature": 0})
    print(f"{model} listens on {url}. Try:\n  curl {url}/chat/completions -d '{body}'", flush=True)  # noqa: T201 - it is said to a person


if __name__ == "__main__":
    sys.exit(main())
