"""Condition types, reasons and capabilities: the constants of `headrace.api.vocabulary` with their docstrings."""

from __future__ import annotations

import re

from generators.markdown import code, table
from generators.source import Constant, constants
from headrace.api import vocabulary
from headrace.kinds.registry import RESOURCE_KINDS

CONDITION_REASONS = re.compile("reasons")
EVENT_REASONS = re.compile("reasons .*events.*")
CAPABILITIES = re.compile("capabilities .*")
"""Headings of the vocabulary."""

MEANINGS = {
    "Valid": "The spec is valid and its public name is free.",
    "InvalidSpec": "A field is wrong; the message names it.",
    "Cached": "The file is in the model directory and verified.",
    "Fetching": "The file is being fetched; the message has the progress.",
    "SourceUnreachable": "The source did not deliver the file: no route, refused, timed out, not found, or cut short.",
    "DigestMismatch": "The file differs from its digest; the message has both.",
    "NoSpace": "The volume for models is full.",
    "Running": "The desired replicas run and are ready.",
    "Starting": "Replicas are starting; the message names the stage.",
    "WaitingForModel": "The replicas start when the model's file is there.",
    "OOMKilled": "A replica exceeded its memory limit.",
    "ImagePullFailed": "The image of a pod cannot be pulled.",
    "StartupDeadlineExceeded": "A replica was not ready within `rollout.startupDeadlineSeconds`.",
    "Admitted": "Every live gateway routes to every ready replica.",
    "NoReplicas": "There is no ready replica to route to.",
    "WaitingForGateways": "A live gateway has not acknowledged a ready replica yet.",
    "NoGateway": "No gateway is connected.",
    "FollowingDemand": "The autoscaler sets the number of replicas.",
    "AtMaximum": "The demand requires more replicas than `scaling.maxReplicas`.",
    "SignalsStale": "The demand is unknown, because NATS or the gateways are unavailable. Nothing is scaled down.",
    "Stable": "There is one revision, and no rollout is in progress.",
    "RollingOut": "The candidate revision is replacing the stable one.",
    "Pending": "Not observed yet; on `ModelCached`: the fetch has not started.",
    "RevisionCreated": "Normal event: a change of the spec, or of the runtime's image, made a revision.",
    "RevisionRetired": "Normal event: a revision receives no more requests.",
}
"""Of constants that have no docstring. A docstring takes precedence."""


def condition_types(kind: str) -> str:
    """Return the condition types of a resource kind."""
    known = {constant.value: constant for constant in constants(vocabulary)}
    rows = ((code(name), known[name].meaning) for name in RESOURCE_KINDS[kind].conditions)
    return table(("type", "meaning"), rows)


def condition_reasons() -> str:
    """Return the reasons of conditions."""
    rows = ((code(each.value), each.comment, meaning(each)) for each in under(CONDITION_REASONS))
    return table(("reason", "set on", "meaning"), rows)


def event_reasons() -> str:
    """Return the reasons that only events and errors of the gateway have."""
    return table(("reason", "meaning"), ((code(each.value), meaning(each)) for each in under(EVENT_REASONS)))


def capabilities() -> str:
    """Return the capabilities of runtimes."""
    return table(("capability", "meaning"), ((code(each.value), meaning(each)) for each in under(CAPABILITIES)))


def under(heading: re.Pattern[str]) -> list[Constant]:
    """Return the constants under a heading of the vocabulary."""
    return [constant for constant in constants(vocabulary) if heading.fullmatch(constant.heading)]


def meaning(constant: Constant) -> str:
    """Return what a reason means."""
    return constant.meaning or MEANINGS.get(constant.value, "")
