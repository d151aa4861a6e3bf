"""Constants of a module with their docstrings, and the comments under which they stand."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

CHECKOUT = Path(__file__).parents[2]

_HEADING = re.compile(r"# -- (?P<title>.+?) -+$")
_COMMENT = re.compile(r"# (?P<text>.+)$")


@dataclass(frozen=True, slots=True)
class Constant:
    """A module-level constant whose value is a string."""

    value: str
    meaning: str
    """Its docstring; empty without one."""
    heading: str
    """Title of the last `# -- title ----` above it."""
    comment: str
    """Last comment line of its own between that heading and it."""


def constants(module: ModuleType) -> Iterator[Constant]:
    """Yield the string constants of a module, in their order."""
    assert module.__file__ is not None
    yield from constants_of(Path(module.__file__))


def constants_of(path: Path) -> Iterator[Constant]:
    """Yield the string constants of a source file, in their order."""
    text = path.read_text(encoding="utf-8")
    lines, body = text.splitlines(), ast.parse(text).body
    heading = comment = ""
    line = 0
    for node, following in zip(body, [*body[1:], None], strict=True):
        for above in lines[line : node.lineno - 1]:
            if found := _HEADING.match(above):
                heading, comment = found["title"], ""
            elif found := _COMMENT.match(above):
                comment = found["text"]
        line = node.end_lineno or node.lineno
        if isinstance(node, ast.Assign) and (value := _string(node.value)) is not None:
            yield Constant(value, _docstring(following), heading, comment)


def _string(node: ast.expr) -> str | None:
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else None


def _docstring(node: ast.stmt | None) -> str:
    return (_string(node.value) or "") if isinstance(node, ast.Expr) else ""
