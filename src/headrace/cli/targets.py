"""What commands share: which instance, which namespace, and names as kubectl takes them (`mdep/smollm2`, `pods x`)."""

from __future__ import annotations

import argparse
import re
from dataclasses import dataclass

from headrace.api.kinds import Kind
from headrace.cli.client import DEFAULT_NAMESPACE, ApiClient
from headrace.errors import HeadraceError
from headrace.kinds.registry import KINDS
from headrace.local.home import InstanceHome

_NAMESPACE = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")


class UnknownKind(HeadraceError):
    """No such kind of resource."""

    reason = "UnknownKind"
    exit_code = 2


@dataclass(frozen=True, slots=True)
class Target:
    """A kind, and one object of it when a name was given."""

    kind: Kind
    name: str | None


def client_of(arguments: argparse.Namespace) -> ApiClient:
    """Return the client of the instance that the arguments name."""
    return ApiClient(InstanceHome.of(arguments.instance).socket)


def add_namespace(parser: argparse.ArgumentParser, what: str = "namespace") -> None:
    """Add `-n/--namespace`, which may stand before the command too: the default is put in when all is parsed."""
    parser.add_argument(
        "-n",
        "--namespace",
        type=_namespace,
        default=argparse.SUPPRESS,
        help=f"{what} (default: {DEFAULT_NAMESPACE})",
    )
    parser.set_defaults(takes_namespace=True)


def _namespace(text: str) -> str:
    """Return a namespace as an option gives it."""
    if not _NAMESPACE.fullmatch(text):
        raise argparse.ArgumentTypeError(
            f"{text!r} cannot name a namespace: use up to 63 lower-case letters, digits and dashes"
        )
    return text


def count(text: str) -> int:
    """Return a number, 0 or more, as an option gives it."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 0 on")
    return int(text)


def add_target(parser: argparse.ArgumentParser, *, name_required: bool = True) -> None:
    """Add the words that name a kind and an object."""
    parser.add_argument(
        "target",
        nargs="+",
        metavar="KIND/NAME" if name_required else "KIND[/NAME]",
        help="e.g. mdep/smollm2 or `mdep smollm2`",
    )
    parser.set_defaults(words="target")


def target_of(words: list[str], *, name_required: bool = True) -> Target:
    """Return the target of `KIND/NAME`, `KIND NAME`, or a lone NAME, which means a ModelDeployment."""
    if len(words) > 2:  # noqa: PLR2004 - a kind and a name
        raise UnknownKind(f"too many names: {' '.join(words)}", hint="Give one KIND/NAME")
    kind_word, _, name = words[0].partition("/")
    if len(words) == 2:  # noqa: PLR2004 - as above
        name = words[1]
    kind = find_kind(kind_word)
    if kind is None and name_required and not name:
        return Target(KINDS["ModelDeployment"], kind_word)
    if kind is None:
        known = ", ".join(known.plural for known in KINDS.values())
        meant = nearest_kind(kind_word)
        guess = f"Did you mean {meant.plural}? " if meant is not None else ""
        raise UnknownKind(f"there is no kind of resource called {kind_word!r}", hint=f"{guess}There are: {known}")
    if name_required and not name:
        raise UnknownKind(f"the {kind.singular} has no name", hint=f"Give a name: {kind.singular}/NAME")
    return Target(kind, name or None)


def find_kind(word: str) -> Kind | None:
    """Return the kind that a word means: its name, plural, singular or short name, in any case."""
    word = word.lower()
    for kind in KINDS.values():
        if word in (kind.kind.lower(), kind.plural, kind.singular, *kind.short_names):
            return kind
    return None


def nearest_kind(word: str) -> Kind | None:
    """Return the kind that was probably meant by a word that is none."""
    from difflib import get_close_matches  # noqa: PLC0415 - only where something is wrong

    words = {name: kind for kind in KINDS.values() for name in (kind.kind.lower(), kind.plural, *kind.short_names)}
    near = get_close_matches(word.lower(), words, n=1)
    return find_kind(word) or (words[near[0]] if near else None)
