"""What the benches of a cluster share: waiting, asking the gateway, and what the API server tells, when it tells it.

All times are Unix times of this machine, whose clock the nodes (containers of it) and everything in them read too.
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
    """Wait until it is true; return how long it took."""
    began = time.monotonic()
    while not look():
        assert time.monotonic() - began < seconds, f"not in {seconds:.0f} s: {what}"
        time.sleep(pause)
    return time.monotonic() - began


def reason(world: ClusterWorld, name: str) -> str:
    """Return the reason of a resource's condition Ready."""
    conditions = world.get(name).get("status", {}).get("conditions", [])
    return next((c["reason"] for c in conditions if c["type"] == "Ready"), "")


def rest(world: ClusterWorld, name: str) -> None:
    """Wait until a model is at zero and wakeable, and its pods are gone."""
    until(lambda: reason(world, name) == "Idle" and not world.pods(name), f"{name} rests", pause=0.2)


@dataclass(slots=True)
class Answer:
    """One request through the gateway, and when what came."""

    sent: float
    arrived: float = 0.0
    """All of it, or the first token of a stream."""
    stages: dict[str, float] = field(default_factory=dict)
    """When a stream's comments first named a stage."""


def ask(world: ClusterWorld, model: str, *, stream: bool) -> Answer:
    """Ask for one token. The connection is there before the clock runs."""
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
        said = response.read()
        answer.arrived = time.time()
        assert response.status == 200, said
    connection.close()
    return answer


@dataclass(frozen=True, slots=True)
class Told:
    """Something that the API server told."""

    at: float
    verb: str
    object: Manifest


class Watch(threading.Thread):
    """Everything that the API server tells of a kind in a namespace, from now until it is closed.

    A watch is what anybody has who is not told by the pod itself; nobody learns of a pod through the API sooner.
    """

    def __init__(self, kube: Kube, kind: str, namespace: str) -> None:
        super().__init__(daemon=True)
        self._client = kubernetes.config.new_client_from_config(str(kube.kubeconfig))  # type: ignore[no-untyped-call]
        self._path = path_of(kind, namespace)
        self._told: list[Told] = []
        self._news = threading.Condition()
        """Guards what was told."""
        self._closed = False
        self.start()

    def close(self) -> None:
        """Hear no more."""
        self._closed = True

    @override
    def run(self) -> None:
        """Listen. A watch that ends (they do, after half an hour) is begun anew."""
        try:
            while not self._closed:
                self._listen()
        except (OSError, urllib3.exceptions.HTTPError):
            if not self._closed:  # else the cluster is gone, as it should be
                raise

    def _listen(self) -> None:
        url = f"{self._client.configuration.host}{self._path}?watch=true"
        response = self._client.rest_client.pool_manager.request("GET", url, preload_content=False, timeout=None)
        unfinished = b""
        for chunk in response.stream(None):
            at = time.time()
            *lines, unfinished = (unfinished + chunk).split(b"\n")
            with self._news:
                self._told += [_told(at, json.loads(line)) for line in lines]
                self._news.notify_all()

    def first(self, look: Callable[[Manifest], object], since: float, seconds: float = DEADLINE_SECONDS) -> Told:
        """Return the first thing told since then that is so; wait for it if need be."""
        seen, deadline = 0, time.monotonic() + seconds
        with self._news:
            while True:
                for told in self._told[seen:]:
                    if told.at >= since and told.verb != "DELETED" and look(told.object):
                        return told
                seen = len(self._told)
                if not self._news.wait(deadline - time.monotonic()):
                    raise AssertionError(f"not told in {seconds:.0f} s: {self._path}")


def _told(at: float, event: Manifest) -> Told:
    return Told(at, event["type"], event["object"])


def is_of(model: str) -> Callable[[Manifest], bool]:
    """Return whether an object is a model's."""
    return lambda found: found["metadata"].get("labels", {}).get(MODEL_LABEL) == model


def is_named(name: str) -> Callable[[Manifest], bool]:
    """Return whether an object has the name."""
    return lambda found: bool(found["metadata"]["name"] == name)


def runs(pod: Manifest) -> bool:
    """Whether a pod's status shows an address and a running container."""
    status = pod.get("status", {})
    return bool(status.get("podIP")) and any("running" in c["state"] for c in status.get("containerStatuses", []))
