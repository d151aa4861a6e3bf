"""`headrace wait`: block until a resource has a condition, or is deleted."""

from __future__ import annotations

import argparse
import threading
import time
from dataclasses import dataclass

from headrace.cli.client import ApiClient
from headrace.cli.targets import Target, add_namespace, add_target, client_of, for_each, targets_of
from headrace.errors import HeadraceError, NotFound, NotRunning
from headrace.kinds.columns import Object, condition

STATUSES = ("True", "False", "Unknown")
UNIT_SECONDS = {"s": 1, "m": 60, "h": 3600}
MAX_SECONDS = 366 * 24 * 3600.0
"""Longest timeout: a longer one is a mistake, and may exceed the limit of the system's timers."""


class WaitTimeout(HeadraceError):
    """The condition was not met before the timeout."""

    reason = "WaitTimeout"


@dataclass(frozen=True, slots=True)
class _Goal:
    """The awaited state: the object is deleted, or a condition has a status."""

    text: str
    deleted: bool = False
    type: str = ""
    status: str = ""

    @classmethod
    def parse(cls, text: str) -> _Goal:
        """Read `--for`."""
        if text == "delete":
            return cls(text, deleted=True)
        word, _, wanted = text.partition("=")
        type_, equals, status = wanted.partition("=")
        if word != "condition" or not type_:
            raise argparse.ArgumentTypeError(
                f"{text!r} is not valid: write condition=TYPE, condition=TYPE=False or delete"
            )
        status = status.capitalize() if equals else "True"
        if status not in STATUSES:
            raise argparse.ArgumentTypeError(
                f"{text!r} is not valid: the status of a condition is True, False or Unknown"
            )
        return cls(text, type=type_, status=status)


@dataclass(frozen=True, slots=True)
class _Duration:
    """A timeout, as given and in seconds."""

    text: str
    seconds: float

    @classmethod
    def parse(cls, text: str) -> _Duration:
        """Read `--timeout`."""
        number, unit = (text[:-1], text[-1]) if text[-1:] in tuple(UNIT_SECONDS) else (text, "s")
        try:
            seconds = float(number) * UNIT_SECONDS[unit]
        except ValueError:
            seconds = 0.0
        if not 0 < seconds <= MAX_SECONDS:
            raise argparse.ArgumentTypeError(f"{text!r} is not a timeout: write 30s, 5m or 1h, up to a year")
        return cls(text, seconds)


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    add_target(parser)
    add_namespace(parser)
    parser.add_argument(
        "--for",
        dest="what",
        type=_Goal.parse,
        default="condition=Ready",
        help="condition=TYPE, condition=TYPE=False, or delete (default: condition=Ready)",
    )
    parser.add_argument("--timeout", type=_Duration.parse, default="60s", help="e.g. 30s, 5m (default: 60s)")


def run(arguments: argparse.Namespace) -> int:
    """Wait for all resources at once, with one timeout."""
    client = client_of(arguments)
    waits = [_Wait(client, target, arguments.namespace, arguments.what) for target in targets_of(arguments.target)]
    deadline = time.monotonic() + arguments.timeout.seconds
    for wait in waits:
        threading.Thread(target=wait.follow, daemon=True).start()

    def finish(wait: _Wait) -> None:
        wait.finish(deadline, arguments.timeout)
        print(f"{wait.named} {'deleted' if arguments.what.deleted else 'condition met'}", flush=True)

    return for_each(waits, finish)


class _Wait:
    """Watches one object in a thread, because a blocking read has no deadline across messages."""

    def __init__(self, client: ApiClient, target: Target, namespace: str, goal: _Goal) -> None:
        self._client = client
        self._target = target
        self._namespace = namespace
        self._goal = goal
        self.named = f"{target.kind.singular}/{target.name}"
        self.seen = "it was not observed"
        self._met = threading.Event()
        self._error: HeadraceError | None = None

    def finish(self, deadline: float, timeout: _Duration) -> None:
        """Wait until the goal is met. Raises WaitTimeout after the deadline."""
        self._met.wait(max(0.0, deadline - time.monotonic()))
        if self._error is not None:
            raise self._error
        if not self._met.is_set():
            raise WaitTimeout(
                f"{self.named} did not meet {self._goal.text} in {timeout.text}: {self.seen}",
                hint=f"See `headrace describe {self.named}`",
            )

    def follow(self) -> None:
        """Set the event when the goal is met or an error occurs."""
        try:
            self._follow()
        except HeadraceError as error:
            self._error = error
            self._met.set()

    def _follow(self) -> None:
        deleted = self._goal.deleted
        changes = self._client.watch(self._target.kind, self._namespace)  # before the read, so no change is missed
        try:
            self._client.get(self._target.kind, self._namespace, self._target.name)
        except NotFound:
            if not deleted:
                raise
            self._met.set()
            return
        for change in changes:
            if change["object"]["metadata"]["name"] != self._target.name:
                continue
            if (deleted and change["type"] == "DELETED") or (not deleted and self._holds(change["object"])):
                self._met.set()
                return
        raise NotRunning("the instance stopped during the wait", hint="Start it with `headrace up`")

    def _holds(self, obj: Object) -> bool:
        found = condition(obj, self._goal.type)
        if not found:
            types = ", ".join(str(item["type"]) for item in obj.get("status", {}).get("conditions", []))
            self.seen = f"it has no condition {self._goal.type} (it has {types or 'none'})"
            return False
        self.seen = f"{self._goal.type}={found['status']} {found['reason']}: {found['message']}"
        current = found.get("observedGeneration", 0) >= obj["metadata"].get("generation", 0)
        return current and bool(found["status"] == self._goal.status)
