"""The entry point: arguments, dispatch, and errors written for the person who gets them."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from importlib import import_module

from headrace.errors import HeadraceError, InvalidResource

COMMANDS: dict[str, str] = {
    "up": "start NATS, the gateway and the reconcile loop on this machine, and apply files",
    "down": "stop the running instance",
    "apply": "create or change resources from files",
    "get": "list resources",
    "describe": "show one resource with its conditions, pods and events",
    "delete": "delete resources",
    "scale": "set spec.replicas",
    "logs": "print the log of a model's pod",
    "wait": "wait until a resource has a condition",
    "chat": "talk to a model through the gateway",
    "keys": "create, list and revoke API keys",
    "doctor": "check what this machine has and what is missing",
    "version": "print the version",
    "dev": "what is needed to work on headrace itself",
}
"""Each is a module of `headrace.cli.commands` with `configure(parser)` and `run(arguments) -> exit code`."""

INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells have it."""


def main(argv: list[str] | None = None) -> int:
    """Run a command and return its exit code."""
    arguments = sys.argv[1:] if argv is None else argv
    command = next((word for word in arguments if not word.startswith("-")), None)
    parser = _parser(command)
    options = _parsed(parser, arguments)
    if options.command is None:
        parser.print_help()
        return 2
    run: Callable[[argparse.Namespace], int] = options.run
    try:
        return run(options)
    except InvalidResource as error:
        print(f"error: {error}", file=sys.stderr)
        for cause in error.causes:
            print(f"  {cause}", file=sys.stderr)
        return error.exit_code
    except HeadraceError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        # `headrace get | head`: the reader has seen enough. Python would complain again while it closes stdout.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _parsed(parser: argparse.ArgumentParser, arguments: list[str]) -> argparse.Namespace:
    """Parse, and let words stand behind options: argparse gives a list of words only what comes before the first."""
    options, rest = parser.parse_known_args(arguments)
    words = getattr(options, getattr(options, "words", ""), None)
    if rest and (words is None or any(word.startswith("-") for word in rest)):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    if rest and words is not None:
        words += rest
    return options


def _parser(command: str | None) -> argparse.ArgumentParser:
    """Return the parser; only the module of the command that is asked for is imported."""
    parser = argparse.ArgumentParser(
        prog="headrace",
        description="Models that rest at zero and answer at once: the same resource files on a laptop and a cluster.",
        epilog="Start with `headrace up -f examples/smollm2.yaml`.",
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", title="commands")
    for name, summary in COMMANDS.items():
        sub = commands.add_parser(name, help=summary, description=summary[0].upper() + summary[1:] + ".")
        if name == command:
            module = import_module(f"headrace.cli.commands.{name}")
            _add_instance_option(sub)
            module.configure(sub)
            sub.set_defaults(run=module.run)
    return parser


def _add_instance_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--instance",
        default=os.environ.get("HEADRACE_INSTANCE", "default"),
        help="which local instance (HEADRACE_INSTANCE, default: default); two may run side by side",
    )


if __name__ == "__main__":
    sys.exit(main())
