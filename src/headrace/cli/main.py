"""The entry point: arguments, dispatch, and error messages."""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import sys
import traceback
from collections.abc import Callable
from importlib import import_module
from typing import Any, TextIO

from typing_extensions import override

from headrace.cli.client import DEFAULT_INSTANCE, DEFAULT_NAMESPACE
from headrace.cli.targets import add_namespace
from headrace.errors import HeadraceError, InvalidResource, system_fault
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
    "node": "list what the node agent holds, for whom, and its hit ratios",
    "keys": "create, list and revoke API keys",
    "doctor": "check the requirements on this machine",
    "version": "print the version",
    "dev": "generate files of a checkout of headrace",
}
"""Each is a module of `headrace.cli.commands` with `configure(parser)` and `run(arguments) -> exit code`."""

INSTANCE_VARIABLE = "HEADRACE_INSTANCE"
USAGE = 2
"""Exit code without a command, equal to argparse's after a usage error."""
INTERRUPTED = 130
"""Exit code after Ctrl-C, equal to a shell's."""


def main(argv: list[str] | None = None) -> int:
    """Run a command and return its exit code."""
    arguments = sys.argv[1:] if argv is None else argv
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(
                errors="backslashreplace"
            )  # a path or response may contain characters that the terminal cannot show
    parser = _parser()
    try:
        options = _parsed(parser, arguments)
        if options.command is not None:
            return _run(options)
        parser.print_help()
    except OSError as error:
        return _failed(_unwritten(sys.stdout) or error, code=USAGE, is_of_output=error.filename is None)
    except SystemExit as ended:  # after --help, or a usage error
        _unwritten(sys.stderr)
        if (unwritten := _unwritten(sys.stdout)) is None:
            raise
        return _failed(unwritten, code=int(ended.code or 0), is_of_output=True)
    return USAGE if (unwritten := _unwritten(sys.stdout)) is None else _failed(unwritten, code=USAGE, is_of_output=True)


def _run(options: argparse.Namespace) -> int:
    """Run the command, and report its error, an OSError too, in one line."""
    run: Callable[[argparse.Namespace], int] = options.run
    code, error = 0, None
    try:
        code = run(options)
    except KeyboardInterrupt:
        code = INTERRUPTED
    except (HeadraceError, OSError) as raised:
        error = raised
    unwritten = _unwritten(sys.stdout)
    if isinstance(error, HeadraceError) or (error is None and unwritten is None):
        return code if error is None else _failed(error, code=code)
    fault = unwritten or error
    assert fault is not None
    return _failed(fault, code=code, is_of_output=unwritten is not None or _is_of_output(fault))


def _failed(error: HeadraceError | OSError, *, code: int, is_of_output: bool = False) -> int:
    """Report an error, and return its exit code, or `code` if the output's pipe is closed."""
    if isinstance(error, BrokenPipeError):
        return code  # `headrace get | head`: the reader has exited
    fault = error if isinstance(error, HeadraceError) else _explained(error, is_of_output=is_of_output)
    with contextlib.suppress(OSError):  # if standard error cannot be written, only the exit code reports the error
        print(f"error: {fault}", file=sys.stderr)
        for cause in fault.causes if isinstance(fault, InvalidResource) else ():
            print(f"  {cause}", file=sys.stderr)
    _unwritten(sys.stderr)
    return fault.exit_code


def _unwritten(stream: TextIO | None) -> OSError | None:
    """Flush a stream and return the error if that fails.

    The buffer is emptied then, because otherwise Python would exit with 120.
    """
    if stream is None:
        return None
    try:
        stream.flush()
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        return error
    return None


def _is_of_output(error: OSError) -> bool:
    """Whether a print raised the error, which happens on an unbuffered stream.

    Such an error has no file and was raised in the package of the commands, which use sockets and files only through
    other modules.
    """
    *_, (frame, _) = traceback.walk_tb(error.__traceback__)
    return error.filename is None and frame.f_globals.get("__name__", "").startswith("headrace.cli.")


def _explained(error: OSError, *, is_of_output: bool) -> HeadraceError:
    """Return the error to report for an OSError."""
    if is_of_output:
        return system_fault(error, what="cannot write to standard output", or_else="redirect the output")
    if error.filename is None:
        return system_fault(error, what="a system call failed")
    return home_fault(error)


def _parsed(parser: argparse.ArgumentParser, arguments: list[str]) -> argparse.Namespace:
    """Parse the arguments, and accept positional arguments after options, which argparse does not for lists."""
    defaults = argparse.Namespace(instance=os.environ.get(INSTANCE_VARIABLE) or DEFAULT_INSTANCE)
    options, rest = parser.parse_known_args(arguments, defaults)
    if not hasattr(options, "namespace"):
        options.namespace = DEFAULT_NAMESPACE
    elif options.command is not None and not options.takes_namespace:
        parser.error(f"`headrace {options.command}` has no option --namespace")
    words = getattr(options, getattr(options, "words", ""), None)
    if rest and (words is None or any(word.startswith("-") for word in rest)):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    if rest and words is not None:
        words += rest
    return options


class _Parser(argparse.ArgumentParser):
    """A parser that accepts --instance anywhere: before the command, after it, and after its action.

    The option has no default here, because the default of one parser would overwrite a value parsed by another.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.add_argument(
            "--instance",
            default=argparse.SUPPRESS,
            help=f"name of the local instance ({INSTANCE_VARIABLE}, default: {DEFAULT_INSTANCE}); several can run",
        )

    @override
    def print_help(self, file: Any = None) -> None:
        """Print the help. Raises OSError on failure, which argparse ignores."""
        print(self.format_help(), end="", file=file)


class _Command(_Parser):
    """The parser of a command, or of one of its actions; it imports the command's module when it parses."""

    module: str | None = None

    @override
    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        if self.module is not None:
            module = import_module(f"headrace.cli.commands.{self.module}")
            self.module = None
            module.configure(self)
            self.set_defaults(run=module.run)
        return super().parse_known_args(args, namespace)


class _PrintVersion(argparse.Action):
    """`--version` is the command `version`."""

    @override
    def __call__(self, parser: argparse.ArgumentParser, namespace: Any, values: Any, option_string: Any = None) -> None:
        parser.exit(import_module("headrace.cli.commands.version").run(namespace))


def _parser() -> argparse.ArgumentParser:
    """Return the parser of all commands."""
    parser = _Parser(
        prog="headrace",
        description="Models that scale to zero and start on the first request, from the same manifests on a "
        "laptop and a cluster.",
        epilog="Start with `headrace up -f examples/smollm2.yaml`.",
    )
    add_namespace(parser, "namespace, for commands with this option")
    parser.set_defaults(takes_namespace=False)  # the command overrides it
    parser.add_argument("--version", action=_PrintVersion, nargs=0, help="print the version")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", title="commands", parser_class=_Command)
    for name, summary in COMMANDS.items():
        command = commands.add_parser(name, help=summary, description=summary[0].upper() + summary[1:] + ".")
        command.module = name
    return parser


if __name__ == "__main__":
    sys.exit(main())
