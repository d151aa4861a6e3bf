"""Requests in plain HTTP, and a steady trickle of them: bounded in count and in time, every failure kept."""

from __future__ import annotations

import contextlib
import http.client
import json
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from behaviours.behaviours_world import PUBLIC_NAME, World, until

REQUEST_SECONDS = 90
FLOWING = 3
"""So many answers before and after what a test does: the traffic was there, and it is still there."""


def opened(world: World) -> http.client.HTTPConnection:
    """Return a connection to the gateway."""
    endpoint = urlsplit(world.base_url)
    return http.client.HTTPConnection(endpoint.hostname or "", endpoint.port, timeout=REQUEST_SECONDS)


def send(world: World, path: str, body: dict[str, object]) -> http.client.HTTPResponse:
    """Send a request and return the response, its body unread (a stream's is still to come)."""
    connection = opened(world)
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {world.api_key}"}
    connection.request("POST", f"{urlsplit(world.base_url).path}{path}", json.dumps(body), headers)
    return connection.getresponse()


def post(world: World, path: str, body: dict[str, object]) -> tuple[int, str]:
    """Send a request and return the status and the whole answer."""
    with send(world, path, body) as response:
        return response.status, response.read().decode()


def short(model: str = PUBLIC_NAME) -> dict[str, object]:
    """Return a completion request of two tokens."""
    return {"model": model, "prompt": "one two", "max_tokens": 2, "temperature": 0}


def asked(model: str, *, stream: bool = False) -> dict[str, object]:
    """Return a chat request whose answer names Paris."""
    question = {"role": "user", "content": "What is the capital of France?"}
    return {"model": model, "messages": [question], "temperature": 0, "max_tokens": 20, "stream": stream}


@dataclass
class Traffic:
    """Short requests, one after another in a few threads, until stopped."""

    world: World
    model: str = PUBLIC_NAME
    threads: int = 2
    most: int = 4000
    seconds: float = 240
    pause: float = 0.02
    """Between two requests of a thread: a trickle shows what is lost, and leaves the cores to what is tested."""
    statuses: list[int] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    @contextlib.contextmanager
    def running(self) -> Iterator[Traffic]:
        """Let the traffic flow around what is done inside."""
        stop = threading.Event()
        workers = [threading.Thread(target=self._ask, args=(stop,)) for _ in range(self.threads)]
        for worker in workers:
            worker.start()
        try:
            self._flows("traffic flows")
            yield self
            self._flows("traffic flows on")
        finally:
            stop.set()
            for worker in workers:
                worker.join()

    def assert_nothing_lost(self) -> None:
        """Every request was answered, with 200."""
        assert self.errors == []
        assert set(self.statuses) == {200}

    def _flows(self, what: str) -> None:
        flowing = len(self.statuses)
        until(lambda: len(self.statuses) >= flowing + FLOWING, lambda: f"{what}; {self.errors}", self.world.patience)

    def _ask(self, stop: threading.Event) -> None:
        deadline = time.monotonic() + self.seconds
        while len(self.statuses) < self.most and time.monotonic() < deadline and not stop.wait(self.pause):
            started = time.monotonic()
            try:
                status, answer = post(self.world, "/completions", short(self.model))
            except (OSError, http.client.HTTPException) as error:
                self.errors.append(f"{type(error).__name__} after {time.monotonic() - started:.2f} s: {error}")
                continue
            self.statuses.append(status)
            if status != 200:
                self.errors.append(answer)
