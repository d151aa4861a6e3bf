"""Rules between fields, each written once as CEL (for the API server) and once in Python (for everybody else).

`headrace.kinds.crds` puts the CEL half into the CRD; `headrace.api.schema` runs the Python half; a property test
holds that they agree. Standard CEL only: what an old API server or another evaluator lacks (isURL, split, `.?`,
quantities) stays out.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

Value = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule. `path` is where it stands in the resource ("" is the root, else e.g. `spec.scaling`).

    A path that ends with `[]` is that of each item of a list. `field` is the field to blame, relative to `path`. A
    transition rule's check gets the old value, others None there. A rule that `quotes` puts the field's value, a
    string, before its message.
    """

    path: str
    field: str
    cel: str
    check: Callable[[Value, Value | None], bool]
    message: str
    transition: bool = False
    quotes: bool = False


def matches(pattern: str, text: str) -> bool:
    """As RE2 does: `$` is the end, not also before a last line feed. Every pattern is anchored at both ends."""
    return re.fullmatch(pattern, text) is not None
