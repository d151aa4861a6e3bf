"""Validation rules across fields, each written as CEL (for the API server) and in Python (for local validation).

`headrace.kinds.crds` writes the CEL expression into the CRD; `headrace.api.schema` runs the Python check; a property
test verifies that they agree. Only standard CEL is used: functions that an old API server or another evaluator lacks
(isURL, split, `.?`, quantities) are not.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

Value = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Rule:
    """A validation rule. `path` is the object that it applies to ("" is the root, else e.g. `spec.scaling`).

    A path that ends with `[]` applies to each item of a list. `field` is the field that the error names, relative to
    `path`. The check of a transition rule receives the old value; other checks receive None. With `quotes`, the
    message is prefixed with the field's value, which is a string.
    """

    path: str
    field: str
    cel: str
    check: Callable[[Value, Value | None], bool]
    message: str
    transition: bool = False
    quotes: bool = False


def matches(pattern: str, text: str) -> bool:
    """Return whether a pattern matches as in RE2: `$` does not match before a final line feed.

    Every pattern is anchored at both ends.
    """
    return re.fullmatch(pattern, text) is not None
