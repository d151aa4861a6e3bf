"""Kubernetes quantities: an integer or a string such as `500m`, `8Gi` or `1e3`, as in a Deployment.

After validation a quantity is always a string: `2` and `"2"` are the same spec, the same revision and the same
manifest. Decimal fractions must be strings (`"0.5"`), because the CRD schema accepts only integers and strings here.
"""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import BeforeValidator, WithJsonSchema
from pydantic_core import PydanticCustomError

PATTERN = r"^\+?([0-9]+(\.[0-9]*)?|\.[0-9]+)([numkMGTPE]|[KMGTPE]i|[eE][+-]?[0-9]{1,2})?$"
"""Kubernetes' grammar without a minus sign, because amounts are never negative, and with exponents of two digits.

The API server parses an exponent as int64 and keeps its lowest 32 bits: `1e4294967299` is `1e3`, and `1e1100000000` is
a number of a billion digits. Useful amounts are between 1e-9, its precision, and 2^63 - 1.
"""
MAX_LENGTH = 32
MAX_INTEGER = 10**18
"""Close to the largest value that Kubernetes stores (2^63 - 1), and exact as the floating-point number in a schema."""


def _text(value: object) -> str:
    """Return a quantity as a string."""
    if isinstance(value, float):
        raise PydanticCustomError(
            "quantity", "must be in quotes, because it is a decimal fraction: {value}", {"value": f'"{value}"'}
        )
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MAX_INTEGER:
        return str(value)
    if isinstance(value, str) and len(value) <= MAX_LENGTH and re.fullmatch(PATTERN, value):
        return value
    raise PydanticCustomError(
        "quantity",
        "must be a Kubernetes quantity, such as 2, 500m, 8Gi or 1e3, not {value}",
        {"value": f"{value!r:.40}"},
    )


Quantity = Annotated[
    str,
    BeforeValidator(_text),
    WithJsonSchema(
        {
            "x-kubernetes-int-or-string": True,
            "minimum": 0,
            "maximum": MAX_INTEGER,
            "maxLength": MAX_LENGTH,
            "pattern": PATTERN,
        }
    ),
]
