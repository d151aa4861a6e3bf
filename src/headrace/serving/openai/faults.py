"""From pydantic's errors to one actionable error.

Unions are discriminated by the type that the client sent (`Discriminator`), so errors are of the intended branch. An
unsupported field is reported first, because it may cause the other errors. A wrong `type` is reported before the other
fields of its object, because it decides which fields there are.
"""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError
from pydantic_core import from_json

from headrace.serving.errors import InvalidRequest, UnsupportedParameter
from headrace.serving.openai.fields import UNSUPPORTED


def fault(error: ValidationError, raw: bytes) -> InvalidRequest:
    """Return the error of the body, without text of the prompt, which pydantic's message quotes."""
    found = error.errors(include_url=False, include_input=False)
    first = next((each for each in found if each["type"] == UNSUPPORTED), found[0])
    if first["type"] != UNSUPPORTED:
        kind = (*first["loc"][:-1], "type")
        first = next((each for each in found if each["loc"] == kind), first)
    if first["type"] == "json_invalid":
        text = first["msg"].removeprefix("Invalid JSON: ")
        return InvalidRequest(f"the body is not JSON: {text}", hint="Check quotes, commas and braces")
    where = _path(first["loc"], from_json(raw))
    if first["type"] == UNSUPPORTED:
        param = ".".join(part for part in (where, first["ctx"]["field"]) if part)
        return UnsupportedParameter(f"`{param}` is not supported here", param=param, hint=first["ctx"]["hint"])
    text = first["msg"].replace(" after validation", "")
    text = text[:1].lower() + text[1:]
    return InvalidRequest(f"`{where}`: {text}" if where else f"the body: {text}", param=where or None)


def _path(loc: tuple[int | str, ...], body: Any) -> str:
    """Return the path of a faulty field in the form `messages[0].content`.

    pydantic's path also contains the names of union branches: the steps for which the body has no object, and those
    with a space, as the branches for objects are named.
    """
    path, node = "", body
    for step in loc:
        if isinstance(step, int):
            path, node = f"{path}[{step}]", node[step] if isinstance(node, list) and step < len(node) else None
        elif isinstance(node, dict) and not (" " in step and step not in node):
            path, node = (f"{path}.{step}" if path else step), node.get(step)
    return path
