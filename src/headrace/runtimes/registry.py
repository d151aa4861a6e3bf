"""Registry of runtime types. A new type is a module with its profile, a line here and, if it has options, a field of
`headrace.kinds.modeldeployment.spec.Runtime`. The enum and the rules of `spec.runtime` are derived from the profiles.
"""

from __future__ import annotations

import sys

from headrace.runtimes.custom_container import CUSTOM_CONTAINER
from headrace.runtimes.llm import LLM
from headrace.runtimes.moe import MOE
from headrace.runtimes.profile import RuntimeProfile

PROFILES: dict[str, RuntimeProfile] = {profile.type: profile for profile in (LLM, MOE, CUSTOM_CONTAINER)}
"""Profiles by type."""
_SPEC = "headrace.kinds.modeldeployment.spec"
"""Its models read the registry once, when they are imported."""


def register(profile: RuntimeProfile) -> None:
    """Add a runtime type of another package. Raises ValueError if it exists, or the spec has been imported."""
    if profile.type in PROFILES:
        raise ValueError(f"the runtime type {profile.type} is registered already")
    if _SPEC in sys.modules:
        raise ValueError(f"the runtime type {profile.type} must be registered before {_SPEC} is imported")
    PROFILES[profile.type] = profile
