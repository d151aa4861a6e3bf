"""The log of a runtime process."""

from __future__ import annotations

import logging
import sys


def configure_logging() -> None:
    """Write the log to standard error, from INFO on. Later calls change nothing."""
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
