"""Description of a container's exit: its exit code, and its termination message or the end of its log.

For a custom container without a termination message, the kubelet quotes the log (`FallbackToLogsOnError`). A log may
contain anything, for example control characters or a client's prompt. So only a short part of it is quoted, only in
conditions, and never in responses to requests (`without_log`).
"""

from __future__ import annotations

import re

from headrace.api import vocabulary as v
from headrace.reconcile.world import Manifest
from headrace.termination import FALLBACK_BYTES

OUT_OF_MEMORY = "it exceeded its memory limit. Raise spec.template.resources.limits.memory"
MAX_LOG_CHARACTERS = 256
"""Maximum length of the quoted log in a condition: its last lines, which usually contain the cause."""
_LOG_ENDS, _LAST_LINE = "; its log ends: ", "; its last line: "
"""Marks before the quoted log. `without_log` cuts a message there."""
_ESCAPES = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|.)", re.DOTALL)


def exit_description(terminated: Manifest, *, may_be_log: bool) -> str:
    """Return the exit code and the termination message of a container, or that it exceeded its memory limit.

    A termination message has one line. Several lines, or as many bytes as a kubelet quotes, are a log. With the log as
    fallback, one line may be either, because a log may have one line.
    """
    if out_of_memory(terminated):
        return f"(exit code {terminated.get('exitCode', '?')}, OOMKilled): {OUT_OF_MEMORY}"
    whole = str(terminated.get("message") or "")
    text = whole.strip()
    code = f"(exit code {terminated.get('exitCode', '?')})"
    if not may_be_log or not text:
        return f"{code}: {_printable(text) or 'there is no termination message; see its log'}"
    if "\n" in text or len(whole.encode()) >= FALLBACK_BYTES:
        return f"{code}{_LOG_ENDS}{_tail(text)}"
    return f"{code}{_LAST_LINE}{_printable(text)}"


def out_of_memory(terminated: Manifest) -> bool:
    """Whether the kernel killed a container because it exceeded its memory limit."""
    return terminated.get("reason") == v.OOM_KILLED


def without_log(message: str) -> str:
    """Return a message without the part that may be a log."""
    for mark in (_LOG_ENDS, _LAST_LINE):
        before, found, _ = message.partition(mark)
        if found:
            message = f"{before}; the conditions of the ModelDeployment have its last output"
    return message


def _tail(log: str) -> str:
    lines = (_printable(line).strip() for line in log.splitlines())
    text = " | ".join(line for line in lines if line)
    return text if len(text) <= MAX_LOG_CHARACTERS else f"…{text[1 - MAX_LOG_CHARACTERS :]}"


def _printable(text: str) -> str:
    return "".join(character if character.isprintable() else " " for character in _ESCAPES.sub("", text)).strip()
