"""What a process said last, as its pod's status quotes it: a termination message, or the end of its log.

A container that is brought has its log quoted when it leaves no message (`FallbackToLogsOnError`). A log may hold
anything: control characters, and what one client asked. So little of it is quoted, in conditions alone, and never to
those who send requests (`public`).
"""

from __future__ import annotations

import re

from headrace.api import vocabulary as v
from headrace.reconcile.world import Manifest
from headrace.termination import FALLBACK_BYTES

OUT_OF_MEMORY = "it used more memory than its limit. Raise spec.template.resources.limits.memory"
MAX_LOG_CHARACTERS = 256
"""Of a log, in a condition: its last lines, where the cause stands."""
_LOG_ENDS, _LAST_LINE = "; its log ends: ", "; its last line: "
"""What stands before the words of a container whose log may be quoted. `public` cuts a message there."""
_ESCAPES = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|.)", re.DOTALL)


def end_of(terminated: Manifest, *, may_be_log: bool) -> str:
    """Return how a container ended: its exit code, and its last words, or that it exceeded its memory limit.

    A termination message is one line. Several lines, or as many bytes as a kubelet takes, are a log; one line may be
    either where the log is the fallback, because a log may have one line only.
    """
    if out_of_memory(terminated):
        return f"(exit code {terminated.get('exitCode', '?')}, OOMKilled): {OUT_OF_MEMORY}"
    whole = str(terminated.get("message") or "")
    said = whole.strip()
    code = f"(exit code {terminated.get('exitCode', '?')})"
    if not may_be_log or not said:
        return f"{code}: {_printable(said) or 'it left no message; see its log'}"
    if "\n" in said or len(whole.encode()) >= FALLBACK_BYTES:
        return f"{code}{_LOG_ENDS}{_tail(said)}"
    return f"{code}{_LAST_LINE}{_printable(said)}"


def out_of_memory(terminated: Manifest) -> bool:
    """Whether the kernel killed a container because it exceeded its memory limit."""
    return terminated.get("reason") == v.OOM_KILLED


def public(message: str) -> str:
    """Return a message without what may be a log."""
    for mark in (_LOG_ENDS, _LAST_LINE):
        before, found, _ = message.partition(mark)
        if found:
            message = f"{before}; its owner finds its last words in the conditions of the ModelDeployment"
    return message


def _tail(log: str) -> str:
    lines = (_printable(line).strip() for line in log.splitlines())
    text = " | ".join(line for line in lines if line)
    return text if len(text) <= MAX_LOG_CHARACTERS else f"…{text[1 - MAX_LOG_CHARACTERS :]}"


def _printable(text: str) -> str:
    return "".join(character if character.isprintable() else " " for character in _ESCAPES.sub("", text)).strip()
