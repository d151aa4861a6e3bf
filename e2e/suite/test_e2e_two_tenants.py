"""One tenant attacks another with what it has: its NATS login, and pods that reach other pods.

kind's network enforces no NetworkPolicy, so nothing here is held up by one.
"""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import ip_network

import pytest
from behaviours.behaviours_traffic import post, short
from behaviours.behaviours_world import model, until, wait
from cluster_world import ClusterWorld, Site, tenant
from speaker import said, speaker

CLAIMS = 500
SECONDS = 240
"""How long the attack lasts at most."""

CLAIMER = """
import asyncio, json, os, time, nats

async def main() -> None:
    given = json.loads(os.environ["ARGUMENTS"])
    client = await nats.connect(os.environ["NATS"], user=os.environ["USER"], password=os.environ["PASSWORD"])
    started, sequence = time.time(), 0
    while time.time() < started + given["seconds"]:
        sequence += 1
        for number, host in enumerate(given["hosts"]):
            report = {
                "pod": f"liar-{number}", "revision": "r", "host": host, "port": 8000, "started": started,
                "sequence": sequence, "state": given["state"], "secret": f"{number:043}",
            }
            subject = f"headrace.replica.{given['namespace']}.theirs.liar-{number}"
            await client.publish(subject, json.dumps(report).encode())
        await client.flush()
        print(sequence)
        await asyncio.sleep(2)

asyncio.run(main())
"""
"""Claims every address, and again every two seconds."""

CALLER = """
import json, os, urllib.error, urllib.request

given = json.loads(os.environ["ARGUMENTS"])
body = json.dumps(given["body"]).encode()
request = urllib.request.Request(given["url"], body, {"content-type": "application/json"})
try:
    with urllib.request.urlopen(request, timeout=10) as answer:
        print(answer.status)
except urllib.error.HTTPError as error:
    print(error.code, error.headers.get("x-headrace-reason"))
except OSError as error:
    print("unreachable", error)
"""


@pytest.fixture(scope="module")
def attacker(site: Site) -> Iterator[ClusterWorld]:
    """A tenant with a model, and so with a login."""
    with tenant(site, "e2e-attacker") as world:
        world.apply(model(world.model_uri, "theirs", scaling={"minReplicas": 0, "maxReplicas": 1}))
        wait(world, "theirs", "Idle")
        yield world


def addresses(served: ClusterWorld) -> list[str]:
    """Return addresses of the pod network: those that the next pods of the node get are among them."""
    (pod,) = [pod for pod in served.pods("smol") if not pod["metadata"].get("deletionTimestamp")]
    network = ip_network(f"{pod['status']['podIP']}/23", strict=False)
    return [str(address) for address in list(network.hosts())[:CLAIMS]]


@pytest.mark.parametrize("state", ["Loading", "Ready"])
def test_wake_when_another_tenant_claims_addresses_then_works(
    served: ClusterWorld, zero: ClusterWorld, attacker: ClusterWorld, state: str
) -> None:
    wait(zero, "smol", "Idle")
    until(lambda: zero.lives("smol") == [], "it is at zero", zero.patience)
    given = {"namespace": attacker.namespace, "hosts": addresses(served), "state": state, "seconds": SECONDS}
    with speaker(attacker, "claimer", CLAIMER, given):
        status, answer = post(zero, "/completions", short())
        assert status == 200, answer
        assert post(served, "/completions", short())[0] == 200
        assert "Traceback" not in said(attacker, "claimer")


def test_runtime_when_another_tenants_pod_calls_it_then_refuses(served: ClusterWorld, attacker: ClusterWorld) -> None:
    (pod,) = [pod for pod in served.pods("smol") if not pod["metadata"].get("deletionTimestamp")]
    url = f"http://{pod['status']['podIP']}:8000/v1/completions"
    with speaker(attacker, "caller", CALLER, {"url": url, "body": short()}):
        answer = said(attacker, "caller").strip()
    assert answer == "401 NotFromGateway" or answer.startswith("unreachable"), answer
