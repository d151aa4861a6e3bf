"""Shared arguments of commands: instance, namespace, and names as in kubectl (`mdep/smollm2`, `pods x`)."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from headrace.api.kinds import Kind
from headrace.cli.client import DEFAULT_NAMESPACE, ApiClient
from headrace.errors import HeadraceError, NotRunning
from headrace.kinds.registry import KINDS
from headrace.local.home import InstanceHome

_T = TypeVar("_T")
_NAMESPACE = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")


class UnknownKind(HeadraceError):
    """The kind of resource does not exist."""

    reason = "UnknownKind"
    exit_code = 2


@dataclass(frozen=True, slots=True)
class Target:
    """A kind, and the name of an object if given."""

    kind: Kind
    name: str | None


def client_of(arguments: argparse.Namespace) -> ApiClient:
    """Return the client of the selected instance."""
    return ApiClient(InstanceHome.of(arguments.instance).socket)


def add_namespace(parser: argparse.ArgumentParser, what: str = "namespace") -> None:
    """Add `-n/--namespace`, which may also precede the command, so its default is set after parsing."""
    parser.add_argument(
        "-n",
        "--namespace",
        type=_namespace,
        default=argparse.SUPPRESS,
        help=f"{what} (default: {DEFAULT_NAMESPACE})",
    )
    parser.set_defaults(takes_namespace=True)


def _namespace(text: str) -> str:
    """Return the namespace of an option."""
    if not _NAMESPACE.fullmatch(text):
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a valid namespace: use up to 63 lower-case letters, digits and dashes"
        )
    return text


def count(text: str) -> int:
    """Return the number, 0 or more, of an option."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of 0 or more")
    return int(text)


def add_target(parser: argparse.ArgumentParser, *, name_required: bool = True) -> None:
    """Add the positional arguments for kinds and objects."""
    parser.add_argument(
        "target",
        nargs="+",
        metavar="KIND/NAME" if name_required else "KIND[/NAME]",
        help="e.g. mdep/smollm2 or `mdep smollm2`; for several: `mdep/a mdep/b` or `mdep a b`",
    )
    parser.set_defaults(words="target")


def target_of(words: list[str]) -> Target:
    """Return the target of `KIND/NAME`, `KIND NAME`, or a lone NAME, which means a ModelDeployment."""
    targets = targets_of(words)
    if len(targets) > 1:
        raise UnknownKind(f"too many names: {' '.join(words)}", hint="Give one KIND/NAME")
    return targets[0]


def targets_of(words: list[str], *, name_required: bool = True) -> list[Target]:
    """Return the targets of `KIND/NAME …`, `KIND NAME …`, or a lone NAME, which means a ModelDeployment."""
    first, *names = words
    if "/" in first or not names:
        return [_target(word, name_required=name_required) for word in words]
    kind = _known_kind(first)
    for name in names:
        if "/" in name:
            raise UnknownKind(
                f"{name!r} has a kind, but {first!r} is the kind", hint="Write KIND NAME NAME, or KIND/NAME KIND/NAME"
            )
    return [Target(kind, name) for name in names]


def for_each(targets: Sequence[_T], act: Callable[[_T], None]) -> int:
    """Call `act` for each target and return the exit code.

    With several targets, an error is printed and the others are processed too.
    """
    if len(targets) == 1:
        act(targets[0])
        return 0
    code = 0
    for target in targets:
        try:
            act(target)
        except NotRunning:
            raise
        except HeadraceError as error:
            print(f"error: {error}", file=sys.stderr)
            code = error.exit_code
    return code


def _target(word: str, *, name_required: bool) -> Target:
    kind_word, slash, name = word.partition("/")
    if name_required and not slash and find_kind(kind_word) is None:
        return Target(KINDS["ModelDeployment"], kind_word)
    kind = _known_kind(kind_word)
    if "/" in name:
        raise UnknownKind(f"{word!r} is not a kind and a name", hint="Write KIND/NAME")
    if (name_required or slash) and not name:
        short = (*kind.short_names, kind.singular)[0]
        raise UnknownKind(
            f"{word!r} does not name a {kind.kind}",
            hint=f"Give its name: {short}/NAME (`headrace get {short}` lists them)",
        )
    return Target(kind, name or None)


def _known_kind(word: str) -> Kind:
    kind = find_kind(word)
    if kind is None:
        known = ", ".join(known.plural for known in KINDS.values())
        meant = nearest_kind(word)
        guess = f"Did you mean {meant.plural}? " if meant is not None else ""
        raise UnknownKind(f"unknown kind of resource {word!r}", hint=f"{guess}Known kinds: {known}")
    return kind


def find_kind(word: str) -> Kind | None:
    """Return the kind with this name, plural, singular or short name, in any case."""
    word = word.lower()
    for kind in KINDS.values():
        if word in (kind.kind.lower(), kind.plural, kind.singular, *kind.short_names):
            return kind
    return None


def nearest_kind(word: str) -> Kind | None:
    """Return the kind with the name closest to an unknown word, if any is close."""
    from difflib import get_close_matches  # noqa: PLC0415 - only for errors

    words = {name: kind for kind in KINDS.values() for name in (kind.kind.lower(), kind.plural, *kind.short_names)}
    near = get_close_matches(word.lower(), words, n=1)
    return find_kind(word) or (words[near[0]] if near else None)
