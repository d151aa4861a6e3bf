"""The policies by name, as `--scheduler` takes them. A new one is a module with a `plan` and an entry here."""

from __future__ import annotations

from headrace_llm.scheduler.core import Policy
from headrace_llm.scheduler.policies import flover, prefill_first, sarathi, splitfuse, static

POLICIES: dict[str, Policy] = {
    "sarathi": sarathi.plan,
    "splitfuse": splitfuse.plan,
    "prefill-first": prefill_first.plan,
    "static": static.plan,
    "flover": flover.plan,
}
DEFAULT = "sarathi"
SLOTS_ONLY = frozenset({"flover"})
"""Policies that need contiguous slots."""
