"""What a process said last, as its pod's status quotes it: a termination message, or the end of its log.

A container that is brought has its log quoted when it leaves no message (`FallbackToLogsOnError`). A log may hold
anything: control characters, and what one client asked. So little of it is quoted, in conditions alone, and never to
those who send requests (`public`).
"""

from __future__ import annotations

import re

from headrace.reconcile.world import Manifest

FALLBACK = "FallbackToLogsOnError"
"""The terminationMessagePolicy by which a kubelet takes the end of the log of a container that failed in silence."""
FALLBACK_LINES, FALLBACK_BYTES = 80, 2048
"""How much of it a kubelet takes."""
MAX_LOG_CHARACTERS = 256
"""Of a log, in a condition: its last lines, where the cause stands."""
_MARK = "; its log ends: "
_ESCAPES = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|.)", re.DOTALL)


def quotes_log(pod_spec: Manifest) -> bool:
    """Whether the end of a pod's log may stand for its termination message."""
    return any(container.get("terminationMessagePolicy") == FALLBACK for container in pod_spec.get("containers", ()))


def end_of(terminated: Manifest, *, may_be_log: bool) -> str:
    """Return how a container ended: its exit code, and its last words.

    What a program says of itself is one line; more than that, or as much as a kubelet takes, is a log.
    """
    said = str(terminated.get("message") or "").strip()
    code = f"(exit code {terminated.get('exitCode', '?')})"
    if may_be_log and ("\n" in said or len(said.encode()) >= FALLBACK_BYTES):
        return f"{code}{_MARK}{_tail(said)}"
    return f"{code}: {_printable(said) or 'it left no message; see its log'}"


def public(message: str) -> str:
    """Return a message without what a log says."""
    before, mark, _ = message.partition(_MARK)
    return f"{before}; its owner finds the end of its log in the conditions of the ModelDeployment" if mark else message


def _tail(log: str) -> str:
    lines = (_printable(line).strip() for line in log.splitlines())
    text = " | ".join(line for line in lines if line)
    return text if len(text) <= MAX_LOG_CHARACTERS else f"…{text[1 - MAX_LOG_CHARACTERS :]}"


def _printable(text: str) -> str:
    return "".join(character if character.isprintable() else " " for character in _ESCAPES.sub("", text)).strip()
