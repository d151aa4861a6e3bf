"""Registry of runtime types. A new type is a module with its profile, a line here and, if it has options, a field of
`headrace.kinds.modeldeployment.spec.Runtime`. The enum and the rules of `spec.runtime` are derived from the profiles.
"""

from __future__ import annotations

from headrace.runtimes.custom_container import CUSTOM_CONTAINER
from headrace.runtimes.llm import LLM
from headrace.runtimes.profile import RuntimeProfile

PROFILES: dict[str, RuntimeProfile] = {}
"""Profiles by type."""


def register(profile: RuntimeProfile) -> None:
    """Add a runtime type, before the import of the spec's models, which read the registry once."""
    if profile.type in PROFILES:
        raise ValueError(f"the runtime type {profile.type} is registered already")
    PROFILES[profile.type] = profile


register(LLM)
register(CUSTOM_CONTAINER)
