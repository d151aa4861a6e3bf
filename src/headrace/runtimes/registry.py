"""Every runtime type. A new one is a module with its profile, its line here and, if it has options, their field in
`headrace.kinds.modeldeployment.spec.Runtime`. The enum and the rules of `spec.runtime` are derived from the profiles.
"""

from __future__ import annotations

from headrace.runtimes.custom_container import CUSTOM_CONTAINER
from headrace.runtimes.llm import LLM
from headrace.runtimes.profile import RuntimeProfile

PROFILES: dict[str, RuntimeProfile] = {}
"""By type."""


def register(profile: RuntimeProfile) -> None:
    """Add a runtime type. The spec's models read the registry once, when they are imported: register before that."""
    if profile.type in PROFILES:
        raise ValueError(f"the runtime type {profile.type} is registered already")
    PROFILES[profile.type] = profile


register(LLM)
register(CUSTOM_CONTAINER)
