"""Images of the pods of models: those of the runtime types, and that of the fetch.

The chart has a value `images.KEY` for each, and passes it to the operator as `--image KEY=REFERENCE`.
"""

from __future__ import annotations

from collections.abc import Mapping

from headrace.runtimes.profile import PlatformImage
from headrace.runtimes.registry import PROFILES

FETCH = PlatformImage("fetch", "headrace-fetch")
"""The process that fetches a model's file."""


def platform_images() -> tuple[PlatformImage, ...]:
    """Return headrace's images for the pods of models."""
    of_runtimes = (profile.image for profile in PROFILES.values() if isinstance(profile.image, PlatformImage))
    return (*of_runtimes, FETCH)


def default_images() -> Mapping[str, str]:
    """Return the required images by key, with their references in local mode, which does not use them."""
    return {image.key: image.name for image in platform_images()}
