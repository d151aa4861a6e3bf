"""What the server is configured to allow."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from headrace.broker.config import Credentials, Server, Users, render, runtime_permissions
from headrace.events import subjects

USERS = Users(Credentials("reconciler", "r"), Credentials("gateway", "g"), {"a": Credentials("runtime-a", "a")})


@pytest.mark.parametrize("namespace", ["*", ">", "a.b", "", "a b", "a\n", "A", "-a"])
def test_permissions_when_a_namespace_is_no_label_are_not_given(namespace: str) -> None:
    with pytest.raises(ValueError, match="is not a namespace"):
        runtime_permissions(namespace)


def test_reports_when_they_hold_secrets_then_subscribers_limited() -> None:
    """Only gateways and the loop may subscribe."""
    said = json.loads(render(Server("pod", 4222, Path("/data")), USERS))
    hear = {user["user"]: user["permissions"]["subscribe"]["allow"] for user in said["authorization"]["users"]}
    assert subjects.ALL_REPLICAS in hear["gateway"]
    assert hear["runtime-a"] == [subjects.admission("a", "*", "*"), subjects.launch("a", "*"), subjects.SOLICIT]


def test_config_when_of_a_laptop_then_listens_on_loopback_only() -> None:
    said = json.loads(render(Server("laptop", 4222, Path("/store"), log=Path("/log")), USERS))
    assert said["host"] == "127.0.0.1"
    assert said["logfile"] == "/log"
    assert "http_port" not in said
    assert {user["user"] for user in said["authorization"]["users"]} == {"reconciler", "gateway", "runtime-a"}


def test_config_when_for_a_cluster_has_probes_and_no_log_file() -> None:
    said = json.loads(render(Server("pod", 4222, Path("/data"), host="0.0.0.0", monitoring_port=8222), USERS))
    assert (said["host"], said["http_port"]) == ("0.0.0.0", 8222)
    assert "logfile" not in said


def test_broker_when_it_has_a_login_then_its_rights_are_minimal() -> None:
    """It may subscribe to admission and answer the loop."""
    users = Users(USERS.reconciler, USERS.gateway, {}, Credentials("broker", "b"))
    said = json.loads(render(Server("pod", 4222, Path("/data")), users))
    (broker,) = (user for user in said["authorization"]["users"] if user["user"] == "broker")
    assert broker["permissions"] == {
        "publish": {"allow": ["_INBOX.reconciler.>"]},
        "subscribe": {"allow": [subjects.ADMIT]},
    }
