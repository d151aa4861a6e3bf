"""Values of the Helm chart: keys and defaults of values.yaml, with the comment above or behind each."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import yaml

from generators.markdown import code, table
from generators.source import CHECKOUT

VALUES = CHECKOUT / "charts/headrace/values.yaml"


def values() -> str:
    """Return the values."""
    return table(("key", "default", "meaning"), rows(VALUES))


def rows(path: Path) -> Iterator[tuple[str, str, str]]:
    """Yield a row for each value of a file."""
    text = path.read_text(encoding="utf-8")
    root = yaml.compose(text, Loader=yaml.SafeLoader)
    assert isinstance(root, yaml.MappingNode)
    yield from _below("", root, text.splitlines())


def _below(prefix: str, node: yaml.MappingNode, lines: list[str]) -> Iterator[tuple[str, str, str]]:
    for key, value in node.value:
        name = f"{prefix}{key.value}"
        comment = _comment(lines, key.start_mark.line, value.end_mark.line)
        if isinstance(value, yaml.MappingNode) and value.value and not value.flow_style:
            yield code(name), "", comment
            yield from _below(f"{name}.", value, lines)
        else:
            yield code(name), code(_default(value)), comment


def _default(node: yaml.Node) -> str:
    text = yaml.serialize(node, Dumper=yaml.SafeDumper)
    return json.dumps(yaml.safe_load(text))


def _comment(lines: list[str], first: int, last: int) -> str:
    """Return the comment above a key, and the one behind its value."""
    above: list[str] = []
    while first and lines[first - 1].lstrip().startswith("#"):
        first -= 1
        above.insert(0, lines[first].strip().removeprefix("#").strip())
    _, _, behind = lines[last].partition(" # ") if last < len(lines) and not above else ("", "", "")
    return " ".join([*above, behind]).strip()
