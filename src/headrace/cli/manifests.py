"""Resource files: YAML documents that remember where each field stands, so that an error can point at its line."""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from headrace.errors import FieldError, HeadraceError

MAX_FILE_BYTES = 4 * 1024 * 1024
"""A resource is a page of text; a larger file is a mistake (a model, say)."""


class InvalidFile(HeadraceError):
    """A file that is no list of resources."""

    reason = "InvalidFile"
    exit_code = 2


@dataclass(frozen=True, slots=True)
class Document:
    """One resource of a file."""

    path: str
    manifest: dict[str, Any]
    node: yaml.Node

    def where(self, fault: FieldError) -> str:
        """Return `file:line: field: message` for a fault: the line of the field, or of its nearest parent."""
        return f"{self.path}:{line_of(self.node, fault.field)}: {fault}"


def read(path: str) -> list[Document]:
    """Return the documents of a file (`-`: standard input). Raises InvalidFile with the line of the fault."""
    try:
        text = sys.stdin.read(MAX_FILE_BYTES + 1) if path == "-" else _read_bounded(Path(path))
    except OSError as error:
        raise InvalidFile(f"cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InvalidFile(f"{path} is not a text file", hint="Resource files are YAML or JSON in UTF-8") from error
    if len(text) > MAX_FILE_BYTES:
        raise InvalidFile(f"{path} is larger than {MAX_FILE_BYTES >> 20} MiB and no resource file")
    try:
        nodes = [node for node in yaml.compose_all(text, Loader=yaml.SafeLoader) if node is not None]
        if not nodes:
            raise InvalidFile(f"{path} has no resource in it")
        return [_document(path, node) for node in nodes]
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise InvalidFile(f"{path}:{line}: not valid YAML: {error.problem}") from error
    except yaml.YAMLError as error:
        raise InvalidFile(f"{path}: not valid YAML: {error}") from error


def _read_bounded(path: Path) -> str:
    with path.open(encoding="utf-8") as file:
        return file.read(MAX_FILE_BYTES + 1)


def _document(path: str, node: yaml.Node) -> Document:
    line = node.start_mark.line + 1
    loader = yaml.SafeLoader("")
    try:
        manifest = loader.construct_document(node)
    finally:
        loader.dispose()
    if not isinstance(manifest, dict):
        raise InvalidFile(f"{path}:{line}: a resource is a mapping with apiVersion, kind, metadata and spec")
    for field in ("apiVersion", "kind"):
        if not isinstance(manifest.get(field), str):
            raise InvalidFile(f"{path}:{line}: the resource has no {field}")
    metadata = manifest.get("metadata")
    if not isinstance(metadata, dict) or not isinstance(metadata.get("name"), str):
        raise InvalidFile(f"{path}:{line}: the resource has no metadata.name")
    return Document(path, manifest, node)


def line_of(node: yaml.Node, field: str) -> int:
    """Return the line (from 1) of a field path such as `spec.template.env[2].name`, or of its nearest parent."""
    line = node.start_mark.line
    for step in re.findall(r"[^.\[\]]+", field):
        found = _child(node, step)
        if found is None:
            break
        line, node = found
    return line + 1


def _child(node: yaml.Node, step: str) -> tuple[int, yaml.Node] | None:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            if key.value == step:
                return key.start_mark.line, value
    if isinstance(node, yaml.SequenceNode) and step.isdigit() and int(step) < len(node.value):
        item = node.value[int(step)]
        return item.start_mark.line, item
    return None
