"""What is refused, and whether the refusal helps: bad specs, rights that nobody has, other tenants' things."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import openai
import pytest
from behaviours.behaviours_traffic import asked, post, short
from behaviours.behaviours_world import Manifest, model, until, wait
from cluster_world import SMOLLM2, ClusterWorld, Site, key_secret, said_by, tenant
from kube import Kube, path_of
from release import NAME, NAMESPACE
from speaker import said, speaker

from headrace.api.vocabulary import KEY_REJECTED
from headrace.routes.api_keys import new_key


@pytest.fixture(scope="module")
def other(site: Site) -> Iterator[ClusterWorld]:
    """Another tenant, with a model of its own."""
    with tenant(site, "e2e-other") as world:
        world.apply(model(world.model_uri, "theirs", scaling={"minReplicas": 0, "maxReplicas": 1}))
        wait(world, "theirs", "Idle")
        yield world


def spec(**changes: Any) -> Manifest:
    return model(SMOLLM2, "bad", **changes)


def with_name(name: str) -> Manifest:
    return model(SMOLLM2, name)


@pytest.mark.parametrize(
    ("manifest", "said"),
    [
        (spec(replica=2), 'unknown field "spec.replica"'),
        (spec(replicas="many"), "spec.replicas"),
        (spec(replicas=-1), "should be greater than or equal to 0"),
        (spec(scaling={"minReplicas": 3, "maxReplicas": 1}), "must not be greater than maxReplicas"),
        (spec(model={"source": {"uri": "ftp://host/model.gguf"}}), "must be package://"),
        (spec(model={"source": {"uri": SMOLLM2, "digest": "sha256:12"}}), "spec.model.source.digest"),
        (spec(model={}), "model.source is required"),
        (spec(runtime={"type": "Magic"}), 'Unsupported value: "Magic"'),
        (
            spec(scaling={"metric": {"type": "QueueDelay", "concurrency": {"target": 2}}}),
            "may only be set when type is",
        ),
        (spec(template={"env": [{"name": "HEADRACE_MODEL_NAME"}]}), "HEADRACE_MODEL_NAME is reserved"),
        (spec(template={"env": [{"name": "A"}, {"name": "A"}]}), "Duplicate value"),
        (with_name("a" * 41), "must have at most 40 characters"),
        (with_name("1st"), "must start with a letter"),
    ],
)
def test_spec_when_invalid_then_the_api_server_names_the_fault(
    kube: Kube, served: ClusterWorld, manifest: Manifest, said: str
) -> None:
    done = kube.try_kubectl("apply", "-n", served.namespace, "-f", "-", text=json.dumps(manifest))
    assert done.returncode != 0
    assert said in done.stderr
    assert served.site.kube.find("modeldeployments", served.namespace, manifest["metadata"]["name"]) is None


def test_source_when_a_file_of_machine_then_condition_refuses_it(served: ClusterWorld) -> None:
    served.apply(model("file:///etc/passwd", "local"))
    assert "file" in wait(served, "local", "SourceNotAllowed", "Accepted")["message"]
    assert served.lives("local") == []
    served.delete("local")


def test_public_name_when_taken_then_later_resource_reports_it(served: ClusterWorld) -> None:
    source = {"uri": SMOLLM2}
    served.apply(model(SMOLLM2, "twin", model={"name": "smol", "source": source}))
    assert "smol" in wait(served, "twin", "NameTaken", "Accepted")["message"]
    served.delete("twin")


OPERATOR_MAY_NOT = [
    ("GET", "/api/v1/namespaces/{tenant}/pods/{pod}/log"),
    ("POST", "/api/v1/namespaces/{tenant}/pods"),
    ("DELETE", "/api/v1/namespaces/{tenant}/pods/{pod}"),
    ("POST", "/api/v1/namespaces/{tenant}/pods/{pod}/exec?command=true"),
    ("DELETE", "/api/v1/namespaces/{tenant}/secrets/e2e"),
    ("POST", "/api/v1/namespaces/{tenant}/secrets"),
    ("GET", "/api/v1/namespaces/{tenant}/secrets/e2e"),
    ("DELETE", "/api/v1/namespaces/{tenant}/persistentvolumeclaims/headrace-models"),
    ("PATCH", "/apis/headrace.dev/v1alpha1/namespaces/{tenant}/modeldeployments/smol"),
    ("DELETE", "/apis/headrace.dev/v1alpha1/namespaces/{tenant}/modeldeployments/smol"),
    ("DELETE", f"/apis/apps/v1/namespaces/{NAMESPACE}/statefulsets/{NAME}-nats"),
    ("GET", "/apis/rbac.authorization.k8s.io/v1/clusterroles"),
    ("POST", "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings"),
    ("GET", "/api/v1/nodes"),
    ("GET", "/api/v1/configmaps"),
    ("PATCH", "/api/v1/namespaces/{tenant}"),
    ("POST", "/api/v1/namespaces/kube-system/serviceaccounts/default/token"),
    ("PATCH", "/apis/coordination.k8s.io/v1/namespaces/kube-system/leases/kube-scheduler"),
]


@pytest.mark.parametrize(("method", "path"), OPERATOR_MAY_NOT)
def test_operator_when_it_exceeds_its_rights_then_it_is_refused(
    kube: Kube, served: ClusterWorld, method: str, path: str
) -> None:
    pod = served.pods("smol")[0]["metadata"]["name"]
    operator = kube.as_service_account(NAMESPACE, f"{NAME}-operator")
    status, answer = operator.request(method, path.format(tenant=served.namespace, pod=pod), {})
    assert status == 403, answer
    assert f"{NAMESPACE}:{NAME}-operator" in said_by(answer)


@pytest.mark.parametrize(
    ("role", "verb", "resource", "may"),
    [
        ("view", "get", "modeldeployments", True),
        ("view", "create", "modeldeployments", False),
        ("view", "patch", "modeldeployments/scale", False),
        ("view", "list", "secrets", False),
        ("edit", "create", "modeldeployments", True),
        ("edit", "patch", "modeldeployments/scale", True),
        ("edit", "patch", "modeldeployments/status", False),
        ("edit", "create", "secrets", True),
        ("admin", "delete", "modeldeployments", True),
        ("admin", "patch", "modeldeployments/status", False),
    ],
)
def test_user_when_bound_to_namespace_role_then_models_are_in_it(
    kube: Kube, served: ClusterWorld, role: str, verb: str, resource: str, *, may: bool
) -> None:
    kube.apply(
        {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "RoleBinding",
            "metadata": {"name": f"e2e-{role}", "namespace": served.namespace},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role},
            "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": f"e2e-{role}"}],
        }
    )
    asked, _, subresource = resource.partition("/")
    question = ["auth", "can-i", verb, asked, "-n", served.namespace, "--as", f"e2e-{role}"]
    question += ["--subresource", subresource] if subresource else []
    wanted = "yes" if may else "no"
    until(lambda: kube.try_kubectl(*question).stdout.strip() == wanted, f"{role}: {wanted}", served.patience)


def test_operator_when_it_lists_what_it_serves_then_it_may(kube: Kube) -> None:
    operator = kube.as_service_account(NAMESPACE, f"{NAME}-operator")
    assert operator.request("GET", path_of("modeldeployments", None))[0] == 200


@pytest.mark.parametrize("component", ["gateway", "nats"])
def test_component_when_it_needs_no_api_then_has_no_rights(kube: Kube, component: str) -> None:
    account = kube.as_service_account(NAMESPACE, f"{NAME}-{component}")
    for kind in ("pods", "secrets", "modeldeployments"):
        assert account.request("GET", path_of(kind, NAMESPACE))[0] == 403


def test_roles_when_installed_then_none_has_a_wildcard(kube: Kube) -> None:
    kube_roles = kube.kubectl(
        "get", "clusterroles,roles", "-A", "-l", f"app.kubernetes.io/instance={NAME}", "-o", "json"
    )
    roles = json.loads(kube_roles)["items"]
    assert roles
    rules = [rule for role in roles for rule in role["rules"]]
    assert not any("*" in rule[part] for rule in rules for part in ("apiGroups", "resources", "verbs"))


def test_key_when_of_one_tenant_then_hides_and_refuses_others(served: ClusterWorld, other: ClusterWorld) -> None:
    for world, own, foreign in ((served, "smol", "theirs"), (other, "theirs", "smol")):
        client = openai.OpenAI(base_url=world.base_url, api_key=world.api_key, max_retries=0)
        assert [found.id for found in client.models.list()] == [own]
        with pytest.raises(openai.NotFoundError):
            client.chat.completions.create(**asked(foreign))  # type: ignore[call-overload]  # plain dicts


def test_key_when_missing_or_wrong_then_every_path_is_refused(served: ClusterWorld) -> None:
    stranger = ClusterWorld(served.site, served.namespace, f"hr_{served.namespace}_wrong")
    assert post(stranger, "/completions", short())[0] == 401
    assert post(ClusterWorld(served.site, served.namespace, ""), "/completions", short())[0] == 401


def test_key_when_it_names_models_then_limited_until_revoked(kube: Kube, served: ClusterWorld) -> None:
    key = new_key(served.namespace)
    narrow = ClusterWorld(served.site, served.namespace, key)
    kube.apply(key_secret(served.namespace, "narrow", key, models="another"))
    until(lambda: post(narrow, "/completions", short())[0] == 404, "the key opens, and not this model", served.patience)
    kube.apply(key_secret(served.namespace, "narrow", key, models="smol"))
    until(lambda: post(narrow, "/completions", short())[0] == 200, "the key opens the model", served.patience)
    kube.delete("secrets", served.namespace, "narrow")
    until(lambda: post(narrow, "/completions", short())[0] == 401, "the revoked key opens nothing", served.patience)


def test_key_when_another_tenant_copies_it_then_copy_is_refused(
    kube: Kube, served: ClusterWorld, other: ClusterWorld
) -> None:
    """The attack: the copy would answer the key, read its prompts, and outlive its revocation."""
    key = new_key(served.namespace)
    victim = ClusterWorld(served.site, served.namespace, key)

    def listed() -> list[str]:
        client = openai.OpenAI(base_url=victim.base_url, api_key=key, max_retries=0)
        return [found.id for found in client.models.list()]

    def rejected(namespace: str) -> bool:
        events = [one for one in kube.items("events", namespace) if one["involvedObject"]["name"] == "copied"]
        return any(one["reason"] == KEY_REJECTED for one in events)

    kube.apply(key_secret(served.namespace, "copied", key))
    until(lambda: post(victim, "/completions", short())[0] == 200, "the key opens its model", served.patience)
    until(lambda: _now() > _created(kube, served.namespace), "the copy is the later one", served.patience)
    kube.apply(key_secret(other.namespace, "copied", key))
    both = (other.namespace, served.namespace)  # a digest does not show whose key it is
    until(lambda: all(map(rejected, both)), "each of the two Secrets has an event", served.patience)
    assert listed() == ["smol"]
    for pod in served.site.release.pods("operator"):
        kube.force_delete(NAMESPACE, pod["metadata"]["name"])
    served.site.release.wait()
    assert listed() == ["smol"]
    kube.delete("secrets", served.namespace, "copied")
    until(lambda: post(victim, "/completions", short())[0] == 401, "the revoked key opens nothing", served.patience)
    assert post(victim, "/completions", short())[0] == 401
    kube.delete("secrets", other.namespace, "copied")


def _created(kube: Kube, namespace: str) -> datetime:
    return datetime.fromisoformat(kube.get("secrets", namespace, "copied")["metadata"]["creationTimestamp"])


def _now() -> datetime:
    """Return the present second: an API server's times are whole ones."""
    return datetime.now(UTC).replace(microsecond=0)


SPEAKER = """
import asyncio, json, os, nats

async def main() -> None:
    given, refused = json.loads(os.environ["ARGUMENTS"]), []

    async def failed(error: Exception) -> None:
        refused.append(str(error))

    client = await nats.connect(
        os.environ["NATS"], user=os.environ["USER"], password=os.environ["PASSWORD"], error_cb=failed
    )
    for subject in given["publish"]:
        await client.publish(subject, b"{}")
        await client.flush()
        await client.flush()  # the first one's PING may be sent before the message
    for subject in given["subscribe"]:
        await client.subscribe(subject)
        await client.flush()
        await client.flush()  # the first one's PING may be sent before the subscription
    await client.close()
    print(json.dumps(refused))

asyncio.run(main())
"""
"""Connects as the runtimes of its namespace do, and prints what the broker refused."""


def speak(world: ClusterWorld, publish: list[str], subscribe: list[str]) -> list[str]:
    """Publish and subscribe from a pod of a tenant; return the broker's refusals."""
    with speaker(world, "speaker", SPEAKER, {"publish": publish, "subscribe": subscribe}):
        refused: list[str] = json.loads(said(world, "speaker"))
        return refused


def test_runtime_when_publishing_for_another_tenant_then_refused(served: ClusterWorld, other: ClusterWorld) -> None:
    theirs, ours = other.namespace, served.namespace
    publish = [
        f"headrace.replica.{theirs}.theirs.pod",
        f"headrace.progress.{theirs}.theirs",
        f"headrace.demand.{theirs}.theirs",
        "headrace.broker.admit",
        f"$KV.headrace-routes.{theirs}.theirs",
        "$JS.API.STREAM.INFO.KV_headrace-keys",
    ]
    subscribe = [f"headrace.admission.{theirs}.*.*", "headrace.>", "$KV.headrace-keys.>", ">"]
    refused = speak(served, publish, subscribe)
    assert len(refused) == len(publish) + len(subscribe), refused
    assert speak(served, [f"headrace.progress.{ours}.nobody"], [f"headrace.admission.{ours}.*.*"]) == []


def test_service_account_when_of_a_model_then_it_reads_no_secret(
    kube: Kube, served: ClusterWorld, other: ClusterWorld
) -> None:
    (account,) = kube.items("serviceaccounts", served.namespace, "headrace.dev/model-deployment=smol")
    for name in (account["metadata"]["name"], "default"):
        asking = kube.as_service_account(served.namespace, name)
        for namespace in (served.namespace, other.namespace, NAMESPACE):
            assert asking.request("GET", path_of("secrets", namespace))[0] == 403
        assert asking.request("GET", path_of("secrets", other.namespace, "headrace-nats"))[0] == 403


def test_nats_passwords_when_two_tenants_then_they_differ(
    kube: Kube, served: ClusterWorld, other: ClusterWorld
) -> None:
    secrets = [kube.get("secrets", world.namespace, "headrace-nats")["data"] for world in (served, other)]
    users = [base64.b64decode(secret["user"]).decode() for secret in secrets]
    assert users == [f"runtime-{served.namespace}", f"runtime-{other.namespace}"]
    assert secrets[0]["password"] != secrets[1]["password"]
