"""A runtime that reports to gateways proves to them who it is, and serves nobody else."""

from __future__ import annotations

from pathlib import Path

import pytest
from serving.conftest import Start
from serving.serving_client import Answer, ask
from serving.serving_echo import MODEL
from serving.serving_processes import NAMESPACE, POD, Broker, Gateway, Server

from headrace.events.messages import ReplicaState
from headrace.events.secret import new_challenge, proof, token
from headrace.headers import CHALLENGE, PROOF, REPLICA_TOKEN
from headrace.serving.identity import Identity

COMPLETION = {"model": MODEL, "prompt": "hello", "max_tokens": 3}


async def asked(server: Server, given: dict[str, str]) -> Answer:
    return await ask(server.settings.port, "POST", "/v1/completions", COMPLETION, given)


@pytest.mark.parametrize("given", ["none", "empty", "another process's", "the secret itself"])
async def test_request_when_not_from_a_gateway_then_401(
    start: Start, broker: Broker, gateway: Gateway, given: str
) -> None:
    server = start(broker=broker)
    report = await gateway.hears(ReplicaState.READY)
    tokens = {"empty": "", "another process's": token("x" * 43), "the secret itself": report.secret}
    headers = {REPLICA_TOKEN: tokens[given]} if given in tokens else {}

    refused = await asked(server, headers)

    assert (refused.status, refused.headers["x-headrace-reason"]) == (401, "NotFromGateway")
    assert "the gateway" in refused.json()["error"]["message"]
    gateway.opens(server)
    assert (await asked(server, server.headers)).status == 200
    assert report.secret not in server.log


@pytest.mark.parametrize("path", ["/v1/models", f"/v1/models/{MODEL}", "/tokenize", "/v1/chat/completions"])
async def test_path_when_not_about_the_process_then_for_gateways_only(
    start: Start, broker: Broker, gateway: Gateway, path: str
) -> None:
    server = start(broker=broker)
    await gateway.hears(ReplicaState.READY)
    method = "GET" if path.startswith("/v1/models") else "POST"
    assert (await ask(server.settings.port, method, path, {})).status == 401


@pytest.mark.parametrize("path", ["/health", "/health/live", "/health/ready", "/metrics", "/version"])
async def test_path_when_about_the_process_then_open_to_all(
    start: Start, broker: Broker, gateway: Gateway, path: str
) -> None:
    server = start(broker=broker)
    await gateway.hears(ReplicaState.READY)
    assert await server.get(path) == 200


async def test_server_when_it_stands_alone_then_everybody_is_served(start: Start) -> None:
    server = start()
    await server.ready()
    assert (await asked(server, {})).status == 200


async def test_challenge_then_the_proof_is_of_the_reported_secret(
    start: Start, broker: Broker, gateway: Gateway, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    server = start(broker=broker, gate=gate)
    loading = await gateway.hears(ReplicaState.LOADING)
    challenge = new_challenge()

    async def proven() -> str | None:
        answer = await ask(server.settings.port, "GET", "/health/ready", headers={CHALLENGE: challenge})
        return answer.headers.get(PROOF)

    expected = proof(loading.secret, challenge, NAMESPACE, POD)
    assert expected is not None
    assert await proven() == expected
    gate.touch()
    await server.ready()
    assert await proven() == expected
    challenge = new_challenge()
    assert await proven() != expected


@pytest.mark.parametrize("challenge", ["", "token", "A" * 32, "a" * 31, "a" * 33, "a" * 1000])
async def test_challenge_when_it_is_none_then_nothing_is_proven(challenge: str) -> None:
    assert proof("s" * 43, challenge, NAMESPACE, POD) is None


async def test_challenge_when_standalone_then_it_is_ignored(start: Start) -> None:
    server = start()
    await server.ready()
    answer = await ask(server.settings.port, "GET", "/health/ready", headers={CHALLENGE: new_challenge()})
    assert (answer.status, PROOF in answer.headers) == (200, False)


def test_identity_when_it_is_shown_then_its_secret_is_not() -> None:
    first, second = (Identity("n", "d", "r", "p", "127.0.0.1", "nats://x") for _ in range(2))
    assert first.secret not in repr(first)
    assert first.secret != second.secret
