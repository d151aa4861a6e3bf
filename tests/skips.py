"""In CI a skip is a failure: a test that did not run proves nothing."""

from __future__ import annotations

import os

import pytest

ALLOWED = ("no GPU", "no eBPF")
"""What a machine may lack."""


def fail_skipped(report: pytest.TestReport) -> None:
    """Turn a skip for any other reason into a failure, in CI."""
    if os.environ.get("CI") and report.skipped and not hasattr(report, "wasxfail"):
        reason = str(report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr)
        if not any(allowed in reason for allowed in ALLOWED):
            report.outcome = "failed"
            report.longrepr = f"skipped in CI: {reason}"
