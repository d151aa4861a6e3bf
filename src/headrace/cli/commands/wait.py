"""`headrace wait`: block until a resource has a condition, or is gone."""

from __future__ import annotations

import argparse
import sys
import threading
import time

from headrace.cli import output
from headrace.cli.client import ApiClient
from headrace.cli.targets import Target, add_namespace, add_target, client_of, target_of
from headrace.errors import HeadraceError, NotFound, NotRunning


class WaitTimeout(HeadraceError):
    """The condition did not come in time."""

    reason = "WaitTimeout"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    add_target(parser)
    add_namespace(parser)
    parser.add_argument(
        "--for",
        dest="what",
        default="condition=Ready",
        help="condition=TYPE, condition=TYPE=False, or delete (default: condition=Ready)",
    )
    parser.add_argument("--timeout", default="60s", help="e.g. 30s, 5m (default: 60s)")


def run(arguments: argparse.Namespace) -> int:
    """Wait."""
    client = client_of(arguments)
    target = target_of(arguments.target)
    seconds = _seconds(arguments.timeout)
    met = threading.Event()
    state = _Wait(client, target, arguments.namespace, arguments.what)
    worker = threading.Thread(target=state.follow, args=(met,), daemon=True)
    deadline = time.monotonic() + seconds
    worker.start()
    met.wait(max(0.0, deadline - time.monotonic()))
    if state.error is not None:
        raise state.error
    if not met.is_set():
        raise WaitTimeout(
            f"{target.kind.singular}/{target.name} did not meet {arguments.what} in {arguments.timeout}: {state.seen}",
            hint=f"See `headrace describe {target.kind.singular}/{target.name}`",
        )
    print(f"{target.kind.singular}/{target.name} {'deleted' if arguments.what == 'delete' else 'condition met'}")
    sys.stdout.flush()
    return 0


class _Wait:
    """Follows one object in a thread of its own, since a blocking read cannot be given a deadline across messages."""

    def __init__(self, client: ApiClient, target: Target, namespace: str, what: str) -> None:
        self._client = client
        self._target = target
        self._namespace = namespace
        self._what = what
        self.seen = "nothing was seen of it"
        self.error: HeadraceError | None = None

    def follow(self, met: threading.Event) -> None:
        try:
            self._follow(met)
        except HeadraceError as error:
            self.error = error
            met.set()

    def _follow(self, met: threading.Event) -> None:
        gone = self._what == "delete"
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

    def _holds(self, obj: output.Object) -> bool:
        _, _, wanted = self._what.partition("=")
        type_, _, status = wanted.partition("=")
        found = output.condition(obj, type_)
        if not found:
            return False
        self.seen = f"{type_}={found['status']} {found['reason']}: {found['message']}"
        current = found.get("observedGeneration", 0) >= obj["metadata"].get("generation", 0)
        return current and str(found["status"]).lower() == (status or "True").lower()


def _seconds(text: str) -> float:
    units = {"s": 1, "m": 60, "h": 3600}
    number, unit = (text[:-1], text[-1]) if text[-1:] in units else (text, "s")
    try:
        return float(number) * units[unit]
    except ValueError as error:
        raise WaitTimeout(f"{text!r} is not a duration", hint="Write 30s, 5m or 1h") from error
