"""`headrace wait`: block until a resource has a condition, or is gone."""

from __future__ import annotations

import argparse
import sys
import threading
import time
from dataclasses import dataclass

from headrace.cli.client import ApiClient
from headrace.cli.targets import Target, add_namespace, add_target, client_of, target_of
from headrace.errors import HeadraceError, NotFound, NotRunning
from headrace.kinds.columns import Object, condition

STATUSES = ("True", "False", "Unknown")
UNIT_SECONDS = {"s": 1, "m": 60, "h": 3600}
MAX_SECONDS = 366 * 24 * 3600.0
"""More is a mistake, and the platform's clocks end somewhere."""


class WaitTimeout(HeadraceError):
    """The condition did not come in time."""

    reason = "WaitTimeout"


@dataclass(frozen=True, slots=True)
class _Goal:
    """What is waited for: that the object is gone, or that a condition has a status."""

    text: str
    gone: bool = False
    type: str = ""
    status: str = ""

    @classmethod
    def parse(cls, text: str) -> _Goal:
        """Read `--for`."""
        if text == "delete":
            return cls(text, gone=True)
        word, _, wanted = text.partition("=")
        type_, equals, status = wanted.partition("=")
        if word != "condition" or not type_:
            raise argparse.ArgumentTypeError(
                f"{text!r} is nothing to wait for: write condition=TYPE, condition=TYPE=False or delete"
            )
        status = status.capitalize() if equals else "True"
        if status not in STATUSES:
            raise argparse.ArgumentTypeError(f"{text!r} will never be: a condition is True, False or Unknown")
        return cls(text, type=type_, status=status)


@dataclass(frozen=True, slots=True)
class _Duration:
    """How long is waited, as it was written and in seconds."""

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
            raise argparse.ArgumentTypeError(f"{text!r} is not a time to wait: write 30s, 5m or 1h, up to a year")
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
    """Wait."""
    client = client_of(arguments)
    target = target_of(arguments.target)
    met = threading.Event()
    state = _Wait(client, target, arguments.namespace, arguments.what)
    worker = threading.Thread(target=state.follow, args=(met,), daemon=True)
    deadline = time.monotonic() + arguments.timeout.seconds
    worker.start()
    met.wait(max(0.0, deadline - time.monotonic()))
    if state.error is not None:
        raise state.error
    if not met.is_set():
        named = f"{target.kind.singular}/{target.name}"
        raise WaitTimeout(
            f"{named} did not meet {arguments.what.text} in {arguments.timeout.text}: {state.seen}",
            hint=f"See `headrace describe {named}`",
        )
    print(f"{target.kind.singular}/{target.name} {'deleted' if arguments.what.gone else 'condition met'}")
    sys.stdout.flush()
    return 0


class _Wait:
    """Follows one object in a thread of its own, since a blocking read cannot be given a deadline across messages."""

    def __init__(self, client: ApiClient, target: Target, namespace: str, goal: _Goal) -> None:
        self._client = client
        self._target = target
        self._namespace = namespace
        self._goal = goal
        self.seen = "nothing was seen of it"
        self.error: HeadraceError | None = None

    def follow(self, met: threading.Event) -> None:
        try:
            self._follow(met)
        except HeadraceError as error:
            self.error = error
            met.set()

    def _follow(self, met: threading.Event) -> None:
        gone = self._goal.gone
        changes = self._client.watch(self._target.kind, self._namespace)  # before the look: nothing falls between
        try:
            self._client.get(self._target.kind, self._namespace, self._target.name)
        except NotFound:
            if not gone:
                raise
            met.set()
            return
        for change in changes:
            if change["object"]["metadata"]["name"] != self._target.name:
                continue
            if (gone and change["type"] == "DELETED") or (not gone and self._holds(change["object"])):
                met.set()
                return
        raise NotRunning("the instance stopped while we waited", hint="Start it with `headrace up`")

    def _holds(self, obj: Object) -> bool:
        found = condition(obj, self._goal.type)
        if not found:
            types = ", ".join(str(item["type"]) for item in obj.get("status", {}).get("conditions", []))
            self.seen = f"it has no condition {self._goal.type} (it has {types or 'none'})"
            return False
        self.seen = f"{self._goal.type}={found['status']} {found['reason']}: {found['message']}"
        current = found.get("observedGeneration", 0) >= obj["metadata"].get("generation", 0)
        return current and bool(found["status"] == self._goal.status)
