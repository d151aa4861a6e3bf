"""Variables of the instance's environment that its processes inherit: credentials of sources only where they are used.

`headrace up` has the credentials of sources in its environment (`AWS_SECRET_ACCESS_KEY`, `HF_TOKEN`, …). A process that
never fetches must not have them: a custom container could read them, and an error report could contain them.
"""

from __future__ import annotations

import os
import re

from headrace.environment import SOURCES_VARIABLES


def source_variables() -> dict[str, str]:
    """Return the credentials and endpoints of sources: for fetches alone."""
    return {name: value for name, value in os.environ.items() if re.fullmatch(SOURCES_VARIABLES, name)}


def component_variables() -> dict[str, str]:
    """Return all others: for headrace's own programs."""
    return {name: value for name, value in os.environ.items() if not re.fullmatch(SOURCES_VARIABLES, name)}
