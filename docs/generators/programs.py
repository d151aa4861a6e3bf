"""Programs and their arguments, read from the argument parsers that they build.

A program builds its parser when it parses. So its entry point is called, and stopped at that moment.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import tomllib
from collections.abc import Iterator
from importlib.metadata import EntryPoint
from unittest import mock

from generators.markdown import code, codes, table
from generators.source import CHECKOUT

ACTIONS = {"headrace-operator": ("cleanup",)}
"""First arguments for which a program builds another parser."""
NONE = frozenset({"help"})
"""The argument that every parser has."""


class _Parsed(Exception):
    """A parser was about to parse."""

    def __init__(self, parser: argparse.ArgumentParser) -> None:
        super().__init__(parser.prog)
        self.parser = parser


def commands() -> str:
    """Return the commands of `headrace`."""
    return "\n".join(_sections(parser_of("headrace")))


def servers() -> str:
    """Return the other programs."""
    names = sorted(scripts().keys() - {"headrace"})
    parsers = (
        parser_of(name, *given) for name in names for given in ((), *((each,) for each in ACTIONS.get(name, ())))
    )
    return "\n".join(section for parser in parsers for section in _sections(parser))


def scripts() -> dict[str, str]:
    """Return the entry points of the distribution's programs by name."""
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return dict(project["scripts"])


def parser_of(name: str, *arguments: str) -> argparse.ArgumentParser:
    """Return the parser of a program, made without variables of headrace in the environment."""
    main = EntryPoint(name, scripts()[name], "console_scripts").load()
    clean = {key: value for key, value in os.environ.items() if not key.startswith("HEADRACE_")}
    patched = mock.patch.object(argparse.ArgumentParser, "parse_known_args", _stop)
    with mock.patch.dict(os.environ, clean, clear=True), patched:
        try:
            main([*arguments])
        except _Parsed as parsed:
            return parsed.parser
    raise AssertionError(f"{name} parses no arguments")


def _stop(parser: argparse.ArgumentParser, *_: object, **__: object) -> None:
    raise _Parsed(parser)


def _sections(parser: argparse.ArgumentParser, summary: str = "", common: frozenset[str] = NONE) -> Iterator[str]:
    """Yield a section for the parser and for each of its commands; `common` arguments are those of the parent."""
    with contextlib.suppress(SystemExit), contextlib.redirect_stdout(io.StringIO()):
        parser.parse_known_args(["--help"])  # a command adds its arguments when it is used
    actions = parser._actions  # noqa: SLF001 - argparse has no public way to list the arguments
    inner = [action for action in actions if isinstance(action, argparse._SubParsersAction)]  # noqa: SLF001 - as above
    own = [action for action in actions if action not in inner and action.dest not in common]
    text = (parser.description or summary).partition("\n")[0].rstrip(".")
    section = f"### {parser.prog}\n\n{text[:1].upper()}{text[1:]}.\n"
    rows = [(_name(action), _default(action), _help(action, parser)) for action in own]
    if rows or not inner:
        yield f"{section}\n{table(('argument', 'default', 'meaning'), rows)}" if rows else section
    for action in inner:
        summaries = {each.dest: each.help or "" for each in action._choices_actions}  # noqa: SLF001 - as above
        for name, command in action.choices.items():
            yield from _sections(command, summaries.get(name, ""), common | {"instance"})


def _name(action: argparse.Action) -> str:
    names = action.option_strings or [str(action.metavar or action.dest)]
    value = ""
    if action.option_strings and action.nargs != 0:
        value = " " + (str(action.metavar) if action.metavar else action.dest.upper())
    return ", ".join(code(f"{name}{value}") for name in names)


def _default(action: argparse.Action) -> str:
    if action.required and action.option_strings:
        return "*required*"
    return "" if action.default in (None, False, argparse.SUPPRESS) or action.default == [] else code(action.default)


def _help(action: argparse.Action, parser: argparse.ArgumentParser) -> str:
    text = (action.help or "") % {**vars(action), "prog": parser.prog}
    return f"{text}: {codes(action.choices)}" if action.choices else text
