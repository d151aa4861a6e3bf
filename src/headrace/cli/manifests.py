"""Manifests: YAML documents with the position of each field, so that an error can name its line."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from headrace.errors import FieldError, HeadraceError

MAX_FILE_BYTES = 4 * 1024 * 1024
"""Limit of a file: a resource is a page of text, so a larger file is a mistake (a model, for example)."""


_SHAPE = "A resource is a mapping with apiVersion, kind, metadata.name and spec, as in examples/"
_TIMESTAMP = "tag:yaml.org,2002:timestamp"
_NULL = "tag:yaml.org,2002:null"


class _Loader(yaml.SafeLoader):
    """YAML as Kubernetes parses it: JSON has no dates, so `2024-05-01` is a string."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != _TIMESTAMP]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_constructor(_TIMESTAMP, lambda _, node: node.value)  # for an explicit !!timestamp


class InvalidFile(HeadraceError):
    """A file that is not a list of resources."""

    reason = "InvalidFile"
    exit_code = 2


@dataclass(frozen=True, slots=True)
class Document:
    """One resource of a file."""

    path: str
    manifest: dict[str, Any]
    node: yaml.Node

    def where(self, fault: FieldError) -> str:
        """Return `file:line: field: message` for an error, with the line of the field or of its nearest parent."""
        return f"{self.path}:{line_of(self.node, fault.field)}: {fault}"


def read(path: str) -> list[Document]:
    """Return the documents of a file (`-`: standard input). Raises InvalidFile with the line of the error."""
    name, place = ("standard input", "stdin") if path == "-" else (path, path)
    try:
        text = _read_bounded(path).decode()
    except OSError as error:
        raise InvalidFile(
            f"cannot read {name}: {error.strerror}", hint="Give the path of a manifest, or - for standard input"
        ) from error
    except UnicodeDecodeError as error:
        raise InvalidFile(f"{name} is not a text file", hint="Manifests are YAML or JSON in UTF-8") from error
    try:
        # Like in kubectl, an empty document (after a final `---`, for example) is skipped.
        nodes = [node for node in yaml.compose_all(text, Loader=_Loader) if node is not None and node.tag != _NULL]
        if not nodes:
            raise InvalidFile(f"{name} contains no resource", hint=_SHAPE)
        return [_document(place, node) for node in nodes]
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise InvalidFile(f"{place}:{line}: not valid YAML: {error.problem}", hint="Fix that line") from error
    except yaml.YAMLError as error:
        raise InvalidFile(f"{name} is not valid YAML: {error}", hint="Manifests are YAML or JSON") from error
    except RecursionError as error:
        raise InvalidFile(f"{name} is nested too deeply for a manifest", hint=_SHAPE) from error


def _read_bounded(path: str) -> bytes:
    if path == "-":
        content = sys.stdin.buffer.read(MAX_FILE_BYTES + 1)
    else:
        with Path(path).open("rb") as file:
            content = file.read(MAX_FILE_BYTES + 1)
    if len(content) > MAX_FILE_BYTES:
        raise InvalidFile(
            f"{path} is larger than {MAX_FILE_BYTES >> 20} MiB, so it is not a manifest",
            hint="Set spec.model.source.uri in a manifest to serve a model's file",
        )
    return content


def write(manifests: Iterable[dict[str, Any]]) -> str:
    """Return the text of a manifest with these manifests."""
    return str(yaml.safe_dump_all(manifests, allow_unicode=True, sort_keys=False))


def _document(path: str, node: yaml.Node) -> Document:
    line = node.start_mark.line + 1
    loader = _Loader("")
    try:
        manifest = loader.construct_document(node)
    finally:
        loader.dispose()
    try:
        json.dumps(manifest, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise InvalidFile(
            f"{path}:{line}: the resource has a value that is not valid in JSON: {error}", hint="Put it in quotes"
        ) from error
    if not isinstance(manifest, dict):
        raise InvalidFile(f"{path}:{line}: this is not a resource", hint=_SHAPE)
    for field in ("apiVersion", "kind"):
        if not isinstance(manifest.get(field), str):
            raise InvalidFile(f"{path}:{line}: the resource has no {field}", hint=_SHAPE)
    metadata = manifest.get("metadata")
    if not isinstance(metadata, dict) or not isinstance(metadata.get("name"), str):
        raise InvalidFile(f"{path}:{line}: the resource has no metadata.name", hint=_SHAPE)
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
