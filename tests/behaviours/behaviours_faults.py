"""`kill -9` of each part while requests run: what is promised in docs/concepts.md, "When a component fails"."""

from __future__ import annotations

import contextlib
import http.client
import json
import threading

from behaviours.behaviours_traffic import Traffic, post, send, short
from behaviours.behaviours_world import SCALING, World, model, until, wait


class FaultBehaviour:
    """Needs the fixture `faulty`: a world with the model `smol`, one replica, ready; the test may break it."""

    def test_replica_when_killed_under_traffic_then_no_request_fails(self, faulty: World) -> None:
        with Traffic(faulty).running() as traffic:
            faulty.kill("smol")
        traffic.assert_nothing_lost()

    def test_replica_when_killed_then_open_stream_ends_replica_lost(self, faulty: World) -> None:
        wait(faulty, "smol", "Running")
        body = {"model": "smol", "prompt": "Once upon a time", "max_tokens": 400, "stream": True, "ignore_eos": True}
        response = send(faulty, "/completions", body)
        first = response.readline()
        while first.startswith(b":") or not first.strip():
            first = response.readline()
        assert first.startswith(b"data: "), first
        faulty.kill("smol")
        events = [line for line in response.read().split(b"\n") if line.startswith(b"data: ") and b"[DONE]" not in line]
        assert json.loads(events[-1][6:])["error"]["code"] == "replica_lost"

    def test_gateway_when_killed_then_restarts_and_no_replica_does(self, faulty: World) -> None:
        def served() -> bool:
            with contextlib.suppress(OSError, http.client.HTTPException):
                return post(faulty, "/completions", short())[0] == 200
            return False

        until(served, "what was killed before is served again", faulty.patience)
        wait(faulty, "smol", "Running")
        lives = faulty.lives("smol")
        faulty.kill_part("gateway")
        until(served, "a gateway serves", faulty.patience)
        until(lambda: faulty.part_is_whole("gateway"), "every gateway is back", faulty.patience)
        assert served()
        assert faulty.lives("smol") == lives

    def test_nats_when_killed_under_traffic_then_no_request_fails(self, faulty: World) -> None:
        wait(faulty, "smol", "Running")
        with Traffic(faulty).running() as traffic:
            faulty.kill_part("nats")
            until(lambda: faulty.part_is_whole("nats"), "NATS is back", faulty.patience)
        traffic.assert_nothing_lost()

    def test_nats_when_killed_then_a_wake_asked_meanwhile_happens(self, faulty: World) -> None:
        faulty.apply(model(faulty.model_uri, "sleeper", scaling=SCALING))
        wait(faulty, "sleeper", "Idle")
        until(lambda: faulty.is_routed("sleeper"), "every gateway has connected to NATS again", faulty.patience)
        answers: list[tuple[int, str]] = []
        asking = threading.Thread(target=lambda: answers.append(post(faulty, "/completions", short("sleeper"))))
        with faulty.without_nats():
            asking.start()
            until(lambda: faulty.held("sleeper") == 1, "the request is held", faulty.patience)
        asking.join()
        assert [status for status, _ in answers] == [200], answers
        faulty.delete("sleeper")

    def test_replica_when_killed_repeatedly_then_requests_are_held(self, faulty: World) -> None:
        """It was ready in between, so its exits are no failures in a row; whoever restarts it may wait before that."""
        for _ in range(2):
            wait(faulty, "smol", "Running")
            faulty.kill("smol")
            status, answer = post(faulty, "/completions", short())
            assert status == 200, answer
