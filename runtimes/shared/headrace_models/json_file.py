"""Reading of JSON from untrusted files: bounded in size, and every error is an InvalidModel that names the file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from headrace.errors import InvalidModel


def read_text(path: Path, limit_bytes: int) -> str:
    """Return the file's text. Raises InvalidModel if it cannot be read, is longer than the limit, or is no text."""
    try:
        with path.open("rb") as file:
            content = file.read(limit_bytes + 1)
        if len(content) > limit_bytes:
            raise InvalidModel(f"{path.name} has more than {limit_bytes} bytes", hint="Check the model's directory")
        return content.decode()
    except OSError as error:
        why = error.strerror or str(error)
        raise InvalidModel(f"cannot read {path}: {why}", hint="Check the path and who may read it") from error
    except UnicodeDecodeError as error:
        raise InvalidModel(f"{path.name} is no text: {error}", hint="Fetch the model again") from error


def read_object(path: Path, limit_bytes: int) -> dict[str, Any]:
    """Return the JSON object in the file. Raises InvalidModel."""
    return parse_object(read_text(path, limit_bytes), path.name)


def parse_object(text: str, name: str) -> dict[str, Any]:
    """Return the JSON object in the text of a file of this name. Raises InvalidModel, also for a key that is twice."""
    try:
        found = json.loads(text, object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise InvalidModel(f"{name} cannot be read as JSON: {error}", hint="Fetch the model again") from error
    if not isinstance(found, dict):
        raise InvalidModel(f"{name} is no JSON object", hint="Fetch the model again")
    return found


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("it has a key twice")
    return found
