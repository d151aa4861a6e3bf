"""From a container to a command line, as Kubernetes does it."""

from __future__ import annotations

import base64
import sys
from pathlib import Path
from typing import Any

import pytest

from headrace.control.world import ChildRefused
from headrace.environment import expanded
from headrace.local.node import node_name
from headrace.local.template import ConfigError, Launch, check_pod_spec, launch_of
from headrace.reconcile.world import Manifest

OBJECTS: dict[tuple[str, str], Manifest] = {
    ("Secret", "login"): {"data": {"user": base64.b64encode(b"ann").decode()}},
    ("ConfigMap", "colours"): {"data": {"SKY": "blue", "GRASS": "green"}},
    ("ConfigMap", "empty"): {"data": None},
}


def pod(**container: Any) -> Manifest:
    return {
        "metadata": {"name": "pod-1", "namespace": "default", "uid": "u", "labels": {"app.x/y": "z"}},
        "spec": {"containers": [{"name": "main", "command": ["run"], **container}]},
        "status": {"podIP": "127.64.0.1"},
    }


def launched(**container: Any) -> Launch:
    return launch_of(pod(**container), lambda kind, name: OBJECTS.get((kind, name)), {})


def from_ref(kind: str, **reference: Any) -> Manifest:
    return {"name": "V", "valueFrom": {kind: reference}}


@pytest.mark.parametrize(
    ("text", "result"),
    [
        ("plain", "plain"),
        ("$(A)", "1"),
        ("a$(A)b$(B)c", "a1b2c"),
        ("$(UNKNOWN)", "$(UNKNOWN)"),
        ("$$(A)", "$(A)"),
        ("$$$(A)", "$1"),
        ("$$$$(A)", "$$(A)"),
        ("$A", "$A"),
        ("$(A", "$(A"),
        ("$()", "$()"),
        ("$", "$"),
        ("$$", "$"),
        ("$(A B)", "$(A B)"),
        ("$($(A))", "$($(A))"),
        ("`$(A)`; rm", "`1`; rm"),
    ],
)
def test_expansion_when_given_a_text_does_as_kubernetes(text: str, result: str) -> None:
    """The table of k8s.io/kubernetes/third_party/forked/golang/expansion, as far as it has one meaning."""
    assert expanded(text, {"A": "1", "B": "2"}) == result


def test_launch_expands_variables_in_command_and_args() -> None:
    launch = launched(command=["$(A)"], args=["--b", "$(B)"], env=[{"name": "A", "value": "1"}, {"name": "B"}])
    assert launch.command == ["1", "--b", ""]


def test_launch_expands_earlier_variables_in_variables() -> None:
    env = [{"name": "B", "value": "$(A)"}, {"name": "A", "value": "1"}, {"name": "C", "value": "$(A)"}]
    variables = launched(env=env).variables
    assert (variables["B"], variables["C"]) == ("$(A)", "1")


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("metadata.name", "pod-1"),
        ("metadata.namespace", "default"),
        ("metadata.uid", "u"),
        ("metadata.labels['app.x/y']", "z"),
        ("metadata.annotations['none']", ""),
        ("status.podIP", "127.64.0.1"),
    ],
)
def test_launch_variable_from_a_field_of_the_pod(path: str, value: str) -> None:
    assert launched(env=[from_ref("fieldRef", fieldPath=path)]).variables["V"] == value


def test_launch_variable_from_a_secret_or_config_map() -> None:
    assert launched(env=[from_ref("secretKeyRef", name="login", key="user")]).variables["V"] == "ann"
    assert launched(env=[from_ref("configMapKeyRef", name="colours", key="SKY")]).variables["V"] == "blue"


def test_launch_env_overrides_env_from() -> None:
    sources = [{"configMapRef": {"name": "colours"}, "prefix": "C_"}, {"configMapRef": {"name": "colours"}}]
    variables = launched(envFrom=sources, env=[{"name": "SKY", "value": "grey, not $(C_SKY)"}]).variables
    assert (variables["SKY"], variables["GRASS"]) == ("grey, not blue", "green")


@pytest.mark.parametrize(
    "container",
    [
        {"env": [from_ref("secretKeyRef", name="none", key="user")]},
        {"env": [from_ref("secretKeyRef", name="login", key="none")]},
        {"env": [from_ref("configMapKeyRef", name="empty", key="none")]},
        {"env": [from_ref("fieldRef", fieldPath="spec.none")]},
        {"env": [from_ref("resourceFieldRef", resource="limits.cpu")]},
        {"envFrom": [{"secretRef": {"name": "none"}}]},
    ],
)
def test_launch_when_a_reference_leads_nowhere_is_a_config_error(container: Manifest) -> None:
    with pytest.raises(ConfigError):
        launched(**container)


@pytest.mark.parametrize(
    "container",
    [
        {"env": [from_ref("secretKeyRef", name="none", key="user", optional=True)]},
        {"env": [from_ref("configMapKeyRef", name="colours", key="none", optional=True)]},
        {"envFrom": [{"configMapRef": {"name": "none", "optional": True}}]},
    ],
)
def test_launch_omits_variable_of_a_missing_optional(container: Manifest) -> None:
    assert "V" not in launched(**container).variables


def test_launch_inherits_only_variables_of_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (
        "HTTPS_PROXY",
        "no_proxy",
        "OMP_NUM_THREADS",
        "PIP_INDEX_URL",
        "LANG",
        "AWS_SECRET_ACCESS_KEY",
        "EDITOR",
    ):
        monkeypatch.setenv(name, "x")
    variables = launched().variables
    assert variables.keys() >= {"HTTPS_PROXY", "no_proxy", "OMP_NUM_THREADS", "PIP_INDEX_URL", "LANG", "HOME"}
    assert not variables.keys() & {"AWS_SECRET_ACCESS_KEY", "EDITOR"}
    assert variables["PATH"].startswith(str(Path(sys.executable).parent))


CREDENTIALS = ("AWS_SECRET_ACCESS_KEY", "HF_TOKEN", "HF_ENDPOINT", "DOCKER_AUTH_CONFIG", "OCI_PLAIN_HTTP")


@pytest.mark.parametrize("secret", ["headrace-sources", "login"])
def test_launch_when_not_a_fetch_then_no_credentials(monkeypatch: pytest.MonkeyPatch, secret: str) -> None:
    """A fetch of a source with credentials refers to the Secret `headrace-sources`, a runtime does not."""
    for name in CREDENTIALS:
        monkeypatch.setenv(name, "of the instance")
    found = launched(envFrom=[{"secretRef": {"name": secret, "optional": True}}]).variables
    assert {name for name in CREDENTIALS if name in found} == (
        set(CREDENTIALS) if secret == "headrace-sources" else set()
    )


def test_launch_when_the_secret_has_a_variable_then_that(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "of the instance")
    token = base64.b64encode(b"of the Secret").decode()
    monkeypatch.setitem(OBJECTS, ("Secret", "headrace-sources"), {"data": {"HF_TOKEN": token}})
    found = launched(envFrom=[{"secretRef": {"name": "headrace-sources", "optional": True}}]).variables
    assert found["HF_TOKEN"] == "of the Secret"


def test_pod_spec_with_fields_without_meaning_is_accepted() -> None:
    spec = pod(image="x", resources={"limits": {"cpu": "1"}}, securityContext={"runAsNonRoot": True})["spec"]
    check_pod_spec({**spec, "nodeName": node_name()})
    check_pod_spec({**spec, "nodeSelector": {"a": "b"}, "automountServiceAccountToken": False, "tolerations": []})


@pytest.mark.parametrize(
    ("named", "spec"),
    [
        (r"volumes\[0\]\.hostPath", {"containers": [{"command": ["a"]}], "volumes": [{"name": "v", "hostPath": {}}]}),
        ("nodeName: there is no node other", {"containers": [{"command": ["a"]}], "nodeName": "other"}),
        ("initContainers", {"containers": [{"command": ["a"]}], "initContainers": []}),
        ("2 containers", {"containers": [{"command": ["a"]}, {"command": ["b"]}]}),
        ("without a command", {"containers": [{"image": "a"}]}),
        ("no volume v", {"containers": [{"command": ["a"], "volumeMounts": [{"name": "v", "mountPath": "/v"}]}]}),
        ("workingDir", {"containers": [{"command": ["a"], "workingDir": "/"}]}),
        ("lifecycle", {"containers": [{"command": ["a"], "lifecycle": {}}]}),
        ("exec", {"containers": [{"command": ["a"], "livenessProbe": {"exec": {"command": ["b"]}}}]}),
        (
            "httpHeaders",
            {"containers": [{"command": ["a"], "readinessProbe": {"httpGet": {"port": 1, "httpHeaders": []}}}]},
        ),
        ("no handler", {"containers": [{"command": ["a"], "readinessProbe": {"periodSeconds": 1}}]}),
        ("the port http", {"containers": [{"command": ["a"], "startupProbe": {"tcpSocket": {"port": "http"}}}]}),
    ],
)
def test_pod_spec_with_unsupported_field_is_refused_by_name(named: str, spec: Manifest) -> None:
    with pytest.raises(ChildRefused, match=named):
        check_pod_spec(spec)
