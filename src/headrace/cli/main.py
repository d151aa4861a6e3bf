"""The entry point: arguments, dispatch, and errors written for the person who gets them."""

from __future__ import annotations

import argparse
import io
import os
import sys
from collections.abc import Callable
from importlib import import_module
from typing import Any

from typing_extensions import override

from headrace.cli.client import DEFAULT_INSTANCE, DEFAULT_NAMESPACE
from headrace.cli.targets import add_namespace
from headrace.errors import HeadraceError, InvalidResource, explained
from headrace.local.home import home_fault

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

INSTANCE_VARIABLE = "HEADRACE_INSTANCE"
INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells have it."""


def main(argv: list[str] | None = None) -> int:
    """Run a command and return its exit code."""
    arguments = sys.argv[1:] if argv is None else argv
    parser = _parser()
    options = _parsed(parser, arguments)
    if options.command is None:
        parser.print_help()
        return 2
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a path or an answer may hold what the terminal cannot show
    return _carried_out(options)


def _carried_out(options: argparse.Namespace) -> int:
    """Run the command; whatever the operating system refuses is one line for a person, as every error is."""
    run: Callable[[argparse.Namespace], int] = options.run
    code, error = 0, None
    try:
        code = run(options)
    except KeyboardInterrupt:
        code = INTERRUPTED
    except (HeadraceError, OSError) as raised:
        error = raised
    unwritten = _unwritten()
    if not isinstance(error, HeadraceError):
        error = unwritten or error
    if error is None or isinstance(error, BrokenPipeError):
        return code  # `headrace get | head`: the reader has seen enough
    fault = error if isinstance(error, HeadraceError) else _explained(error)
    print(f"error: {fault}", file=sys.stderr)
    for cause in fault.causes if isinstance(fault, InvalidResource) else ():
        print(f"  {cause}", file=sys.stderr)
    return fault.exit_code


def _unwritten() -> OSError | None:
    """Write what is printed; return why it cannot be. Python would complain again at its end, so nothing is left."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return error
    return None


def _explained(error: OSError) -> HeadraceError:
    """Return what it means. One that names no file is of what we print: the client explains those of sockets."""
    if error.filename is None:
        return explained(error, what="cannot write to standard output", or_else="write it elsewhere")
    return home_fault(error)


def _parsed(parser: argparse.ArgumentParser, arguments: list[str]) -> argparse.Namespace:
    """Parse, and let words stand behind options: argparse gives a list of words only what comes before the first."""
    defaults = argparse.Namespace(instance=os.environ.get(INSTANCE_VARIABLE) or DEFAULT_INSTANCE)
    options, rest = parser.parse_known_args(arguments, defaults)
    if not hasattr(options, "namespace"):
        options.namespace = DEFAULT_NAMESPACE
    elif options.command is not None and not options.takes_namespace:
        parser.error(f"`headrace {options.command}` takes no --namespace")
    words = getattr(options, getattr(options, "words", ""), None)
    if rest and (words is None or any(word.startswith("-") for word in rest)):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    if rest and words is not None:
        words += rest
    return options


class _Parser(argparse.ArgumentParser):
    """A parser with the option that may stand anywhere: before the command, behind it, and behind its action.

    Its default is not the parsers' own: each would put it over what was said before.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.add_argument(
            "--instance",
            default=argparse.SUPPRESS,
            help=f"which local instance ({INSTANCE_VARIABLE}, default: {DEFAULT_INSTANCE}); two may run side by side",
        )


class _Command(_Parser):
    """The parser of a command, or of one of its actions; only the module of the command that is used is imported."""

    module: str | None = None

    @override
    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        if self.module is not None:
            module = import_module(f"headrace.cli.commands.{self.module}")
            self.module = None
            module.configure(self)
            self.set_defaults(run=module.run)
        return super().parse_known_args(args, namespace)


def _parser() -> argparse.ArgumentParser:
    """Return the parser of all commands."""
    parser = _Parser(
        prog="headrace",
        description="Models that scale to zero and start on the first request, from the same resource files on a "
        "laptop and a cluster.",
        epilog="Start with `headrace up -f examples/smollm2.yaml`.",
    )
    add_namespace(parser, "namespace, for commands that take one")
    parser.set_defaults(takes_namespace=False)  # until the command says that it does
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", title="commands", parser_class=_Command)
    for name, summary in COMMANDS.items():
        command = commands.add_parser(name, help=summary, description=summary[0].upper() + summary[1:] + ".")
        command.module = name
    return parser


if __name__ == "__main__":
    sys.exit(main())
