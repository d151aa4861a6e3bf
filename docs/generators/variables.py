"""Environment variables of headrace's programs: every `HEADRACE_…` that the source code names."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from generators.markdown import code, table
from generators.source import CHECKOUT, constants_of
from headrace import environment

FOLDERS = ("src/headrace", "*/headrace_*", "runtimes/*/headrace_*")
"""Globs of the packages of the distribution."""

MEANINGS = {
    "HEADRACE_API_KEY": "API key that `headrace chat` sends.",
    "HEADRACE_HOME": "Directory of all files of local mode. Default: `~/.local/share/headrace`.",
    "HEADRACE_INSTANCE": "Name of the local instance that commands act on, as `--instance` gives it.",
    "HEADRACE_ISA": "Instruction set of the native kernels: `avx512`, `avx2` or `portable`. Default: the fastest "
    "of the processor.",
    "HEADRACE_LIFE": "Set by local mode in the processes that it starts, to find them after a crash. Do not set it.",
    "HEADRACE_MODEL_DEPLOYMENT": "Name of the ModelDeployment of the pod.",
    "HEADRACE_NAMESPACE": "Namespace of the pod.",
    "HEADRACE_NATS_GATEWAY_PASSWORD": "Of the broker: the password of the role `gateway`.",
    "HEADRACE_NATS_RECONCILER_PASSWORD": "Of the broker: the password of the role `reconciler`.",
    "HEADRACE_REVISION": "Revision hash of the pod.",
}
"""Of variables whose constant has no docstring. A docstring takes precedence."""

_VARIABLE = re.compile(r"HEADRACE_[A-Z_]*[A-Z]")


def variables() -> str:
    """Return the variables, with those that headrace sets in pods marked."""
    known = documented()
    rows = (
        (code(name), "yes" if name in environment.SET_IN_PODS else "", known.get(name) or MEANINGS.get(name, ""))
        for name in sorted(named())
    )
    return table(("variable", "set in pods", "meaning"), rows)


def documented() -> dict[str, str]:
    """Return the docstrings of the constants that name a variable."""
    found = (constant for path in _files() for constant in constants_of(path))
    return {each.value: each.meaning for each in found if _VARIABLE.fullmatch(each.value) and each.meaning}


def named() -> set[str]:
    """Return every variable that a string of the source code is."""
    trees = (ast.parse(path.read_text(encoding="utf-8")) for path in _files())
    strings = (node.value for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Constant))
    return {text for text in strings if isinstance(text, str) and _VARIABLE.fullmatch(text)}


def _files() -> Iterator[Path]:
    for folder in FOLDERS:
        for package in CHECKOUT.glob(folder):
            yield from sorted(package.rglob("*.py"))
