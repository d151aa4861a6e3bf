"""From nothing to a first token, as README and NOTES tell it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator

import openai
import pytest
from behaviours.behaviours_traffic import asked
from behaviours.behaviours_world import condition, until, wait
from cluster import MODELS, make_writable
from cluster_world import EXAMPLE, ClusterWorld, Site, tenant
from kube import Kube
from release import NAMESPACE

FRESH = "fresh"
COLUMNS = ["NAME", "READY", "REASON", "RUNTIME", "REPLICAS", "URL", "AGE"]


@pytest.fixture(scope="module")
def quickstart(site: Site) -> Iterator[ClusterWorld]:
    """A tenant whose volume is empty: its model is really fetched, by a pod."""
    shutil.rmtree(MODELS / FRESH, ignore_errors=True)
    make_writable(MODELS / FRESH)
    with tenant(site, "e2e-quickstart", FRESH) as world:
        yield world
    shutil.rmtree(MODELS / FRESH, ignore_errors=True)


def test_release_when_installed_then_its_own_test_passes(site: Site) -> None:
    assert "Phase:          Succeeded" in site.release.test()


def test_example_when_applied_then_idle_at_zero_and_answers(quickstart: ClusterWorld) -> None:
    quickstart.apply(EXAMPLE)
    wait(quickstart, "smollm2", "Idle")
    assert quickstart.lives("smollm2") == []
    client = openai.OpenAI(base_url=quickstart.base_url, api_key=quickstart.api_key, max_retries=0)
    answer = client.chat.completions.create(**asked("smollm2-135m-instruct"))  # type: ignore[call-overload]
    assert "Paris" in answer.choices[0].message.content
    assert condition(quickstart, "smollm2", "ModelCached")["reason"] == "Cached"


def test_get_when_run_then_columns_are_the_registered_ones(kube: Kube, quickstart: ClusterWorld) -> None:
    quickstart.apply(EXAMPLE)
    printed = kube.kubectl("get", "mdep", "-n", quickstart.namespace).splitlines()
    assert printed[0].split() == COLUMNS
    assert "smollm2" in kube.kubectl("get", "headrace", "-n", quickstart.namespace)


def test_explain_when_asked_then_fields_are_described(kube: Kube) -> None:
    assert "The model and its public name" in kube.kubectl("explain", "modeldeployment.spec")
    assert "queued before it fails with 503" in kube.kubectl(
        "explain", "mdep.spec.scaling.coldStart.queueTimeoutSeconds"
    )


def test_children_when_model_served_then_each_exists_and_owned(kube: Kube, served: ClusterWorld) -> None:
    owned = {
        kind: kube.items(kind, served.namespace, "headrace.dev/model-deployment=smol")
        for kind in (
            "deployments",
            "services",
            "serviceaccounts",
            "networkpolicies",
        )  # a finished Job goes after a while
    }
    assert {kind for kind, found in owned.items() if not found} == set()
    uid = served.get("smol")["metadata"]["uid"]
    assert all(item["metadata"]["ownerReferences"][0]["uid"] == uid for found in owned.values() for item in found)


def test_pods_when_they_run_then_they_are_locked_down(site: Site, kube: Kube, served: ClusterWorld) -> None:
    pods = [*kube.items("pods", NAMESPACE), *served.pods("smol")]
    for pod in pods:
        for container in pod["spec"]["containers"]:
            security = container["securityContext"]
            assert security["readOnlyRootFilesystem"] is True, pod["metadata"]["name"]
            assert security["allowPrivilegeEscalation"] is False
            assert security["capabilities"] == {"drop": ["ALL"]}
    assert all(pod["spec"]["automountServiceAccountToken"] is False for pod in served.pods("smol"))
    namespace = kube.get("namespaces", None, NAMESPACE)
    labels = {**namespace["metadata"]["labels"], "pod-security.kubernetes.io/enforce": "restricted"}
    status, answer = kube.request(
        "PATCH", f"/api/v1/namespaces/{NAMESPACE}?dryRun=All", {"metadata": {"labels": labels}}
    )
    assert status == 200
    assert json.loads(answer)["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"


def test_volume_when_a_runtime_mounts_it_then_it_is_read_only(served: ClusterWorld) -> None:
    (pod,) = served.pods("smol")
    (volume,) = [volume for volume in pod["spec"]["volumes"] if "persistentVolumeClaim" in volume]
    assert volume["persistentVolumeClaim"]["readOnly"] is True


def test_event_when_a_model_wakes_then_it_says_from_and_to(kube: Kube, quickstart: ClusterWorld) -> None:
    until(
        lambda: "Scaled" in kube.kubectl("get", "events", "-n", quickstart.namespace),
        "an event tells the scaling",
        quickstart.patience,
    )
