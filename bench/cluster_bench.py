"""Shared code of the benches on a cluster: waiting, requests to the gateway, and timestamped watches.

All times are Unix times of this machine, whose clock the nodes (its containers) and all pods use too.
"""

from __future__ import annotations

import http.client
import json
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import kubernetes.config
import urllib3
from typing_extensions import override

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "e2e")]  # the cluster and its installation are those of the suite

from cluster_world import ClusterWorld
from kube import Kube, path_of

from headrace.api.vocabulary import MODEL_LABEL

DEADLINE_SECONDS = 400.0
STAGE = b": headrace stage="

Manifest = dict[str, Any]


def until(look: Callable[[], object], what: str, seconds: float = DEADLINE_SECONDS, pause: float = 0.05) -> float:
    """Wait until `look` returns true; return how long it took."""
    began = time.monotonic()
    while not look():
        assert time.monotonic() - began < seconds, f"not in {seconds:.0f} s: {what}"
        time.sleep(pause)
    return time.monotonic() - began


def reason(world: ClusterWorld, name: str) -> str:
    """Return the reason of a resource's condition Ready."""
    conditions = world.get(name).get("status", {}).get("conditions", [])
    return next((c["reason"] for c in conditions if c["type"] == "Ready"), "")


def wait_idle(world: ClusterWorld, name: str) -> None:
    """Wait until a model is scaled to zero (Idle) and its pods are deleted."""
    until(lambda: reason(world, name) == "Idle" and not world.pods(name), f"{name} is idle", pause=0.2)


@dataclass(slots=True)
class Answer:
    """Times of one request through the gateway."""

    sent: float
    arrived: float = 0.0
    """When the whole response, or the first token of a stream, arrived."""
    stages: dict[str, float] = field(default_factory=dict)
    """When the stream's comments first named each stage."""


def complete(world: ClusterWorld, model: str, *, stream: bool) -> Answer:
    """Request one token. The time starts after the connection is established."""
    body = {"model": model, "prompt": "Once", "max_tokens": 1, "stream": stream, "temperature": 0}
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {world.api_key}"}
    connection = http.client.HTTPConnection(urlsplit(world.site.gateway).netloc, timeout=DEADLINE_SECONDS)
    connection.connect()
    answer = Answer(time.time())
    connection.request("POST", "/v1/completions", json.dumps(body), headers)
    response = connection.getresponse()
    if stream:
        for line in response:
            if line.startswith(STAGE):
                answer.stages.setdefault(line.removeprefix(STAGE).split()[0].decode(), time.time())
            elif line.startswith(b"data: {") and b'"error"' not in line:
                answer.arrived = time.time()
                break
        assert answer.arrived, "the stream ended without a token"
    else:
        content = response.read()
        answer.arrived = time.time()
        assert response.status == 200, content
    connection.close()
    return answer


@dataclass(frozen=True, slots=True)
class WatchEvent:
    """An event of a watch, with the time of its arrival."""

    at: float
    verb: str
    object: Manifest


class Watch(threading.Thread):
    """Events of a kind in a namespace, from now until the watch is closed.

    A watch is the fastest way in which a client learns of a pod through the API.
    """

    def __init__(self, kube: Kube, kind: str, namespace: str) -> None:
        super().__init__(daemon=True)
        self._client = kubernetes.config.new_client_from_config(str(kube.kubeconfig))  # type: ignore[no-untyped-call]
        self._path = path_of(kind, namespace)
        self._events: list[WatchEvent] = []
        self._arrived = threading.Condition()
        """Guards `_events`."""
        self._closed = False
        self.start()

    def close(self) -> None:
        """Stop the watch."""
        self._closed = True

    @override
    def run(self) -> None:
        """Receive events. A watch that ends (after half an hour, as a rule) is restarted."""
        try:
            while not self._closed:
                self._listen()
        except (OSError, urllib3.exceptions.HTTPError):
            if not self._closed:  # otherwise the cluster was deleted, as expected
                raise

    def _listen(self) -> None:
        url = f"{self._client.configuration.host}{self._path}?watch=true"
        response = self._client.rest_client.pool_manager.request("GET", url, preload_content=False, timeout=None)
        unfinished = b""
        for chunk in response.stream(None):
            at = time.time()
            *lines, unfinished = (unfinished + chunk).split(b"\n")
            with self._arrived:
                self._events += [_watch_event(at, json.loads(line)) for line in lines]
                self._arrived.notify_all()

    def first(self, look: Callable[[Manifest], object], since: float, seconds: float = DEADLINE_SECONDS) -> WatchEvent:
        """Return the first event since `since` whose object matches; wait for it if necessary."""
        seen, deadline = 0, time.monotonic() + seconds
        with self._arrived:
            while True:
                for event in self._events[seen:]:
                    if event.at >= since and event.verb != "DELETED" and look(event.object):
                        return event
                seen = len(self._events)
                if not self._arrived.wait(deadline - time.monotonic()):
                    raise AssertionError(f"no matching event in {seconds:.0f} s: {self._path}")


def _watch_event(at: float, event: Manifest) -> WatchEvent:
    return WatchEvent(at, event["type"], event["object"])


def is_of(model: str) -> Callable[[Manifest], bool]:
    """Return a predicate for objects of a model."""
    return lambda found: found["metadata"].get("labels", {}).get(MODEL_LABEL) == model


def is_named(name: str) -> Callable[[Manifest], bool]:
    """Return a predicate for objects with a name."""
    return lambda found: bool(found["metadata"]["name"] == name)


def runs(pod: Manifest) -> bool:
    """Whether a pod's status shows an address and a running container."""
    status = pod.get("status", {})
    return bool(status.get("podIP")) and any("running" in c["state"] for c in status.get("containerStatuses", []))
