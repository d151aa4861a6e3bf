"""Keys of the images that the pods of models use: those of the runtime types, and that of the fetch.

The chart has a value `images.KEY` for each, and passes it to the operator as `--image KEY=REFERENCE`.
"""

from __future__ import annotations

from collections.abc import Mapping

from headrace.runtimes.profile import PlatformImage
from headrace.runtimes.registry import PROFILES

FETCH = PlatformImage("fetch", "headrace-fetch")
"""The process that fetches a model's file."""


def platform_images() -> tuple[PlatformImage, ...]:
    """Return every image of headrace that pods of models use."""
    of_runtimes = (profile.image for profile in PROFILES.values() if isinstance(profile.image, PlatformImage))
    return (*of_runtimes, FETCH)


def default_images() -> Mapping[str, str]:
    """Return the images that must be known; the references are those of local mode, which does not use them."""
    return {image.key: image.name for image in platform_images()}
