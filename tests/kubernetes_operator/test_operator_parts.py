"""Settings, paths, health and the namespaces' needs."""

from __future__ import annotations

import asyncio
import base64
import time
from typing import Any, cast

import pytest
from kubernetes_operator.operator_api import RecordingApi
from nats.aio.client import Client

from headrace.api.vocabulary import MODEL_DEPLOYMENT
from headrace.broker.passwords import runtime_password
from headrace.errors import CannotStart
from headrace.reconcile.images import platform_images
from headrace_operator.client import ApiError, ApiServer, Change
from headrace_operator.health import STUCK_SECONDS, UNANSWERED_SECONDS, Health
from headrace_operator.kinds import POD, watched_kinds
from headrace_operator.namespaces import Namespaces
from headrace_operator.settings import ModelsClaim, Settings

VARIABLES = {
    "HEADRACE_NATS_URL": "nats://headrace-nats:4222",
    "HEADRACE_NATS_USER": "reconciler",
    "HEADRACE_NATS_PASSWORD": "s3cret-password",
    "HEADRACE_NATS_RUNTIME_KEY": "s3cret-key",
    "POD_NAME": "operator-0",
    "POD_NAMESPACE": "headrace-system",
}
IMAGES = {image.key: f"{image.key}:1" for image in platform_images()}
NEEDED = ["--gateway-url=http://gateway", *(f"--image={key}={reference}" for key, reference in IMAGES.items())]
SECRET = "/api/v1/namespaces/team/secrets/headrace-nats"
CLAIM = "/api/v1/namespaces/team/persistentvolumeclaims/headrace-models"


def claim(*, existing: bool = False) -> ModelsClaim:
    return ModelsClaim("headrace-models", None, "ReadWriteMany", "20Gi", existing)


def namespaces(api: RecordingApi, *, existing: bool = False) -> Namespaces:
    made = Namespaces(cast("ApiServer", api), cast("Client", None), "key", claim(existing=existing))
    made.want(frozenset({"team"}))
    return made


def test_settings_when_all_is_given_then_the_rules_get_it() -> None:
    given = [
        *NEEDED,
        "--image=runtimeCuda=cuda:1",
        "--image-pull-secret=a",
        "--image-pull-secret=b",
        "--fetch-env=HTTPS_PROXY=http://proxy:1/?a=b",
        "--ca-bundle-configmap=ca",
        "--max-body-bytes=8388608",
    ]
    rules = Settings.parse(given, VARIABLES).rules()
    assert rules.images == {**IMAGES, "runtimeCuda": "cuda:1"}
    assert rules.image_pull_secrets == ("a", "b")
    assert rules.fetch_env == (("HTTPS_PROXY", "http://proxy:1/?a=b"),)
    assert rules.ca_bundle_configmap == "ca"
    assert rules.platform_namespace == "headrace-system"
    assert rules.max_body_bytes == 8388608
    assert rules.pod_security
    assert "file" not in rules.allowed_schemes


@pytest.mark.parametrize("missing", ["HEADRACE_NATS_URL", "HEADRACE_NATS_RUNTIME_KEY", "POD_NAMESPACE"])
def test_settings_when_a_variable_is_missing_then_it_is_named(missing: str) -> None:
    with pytest.raises(CannotStart, match=missing):
        Settings.parse(NEEDED, {name: value for name, value in VARIABLES.items() if name != missing})


@pytest.mark.parametrize("key", IMAGES)
def test_settings_when_an_image_is_missing_then_it_is_named(key: str) -> None:
    given = [word for word in NEEDED if not word.startswith(f"--image={key}=")]
    with pytest.raises(CannotStart, match=f"--image {key}=REFERENCE is missing"):
        Settings.parse(given, VARIABLES)


def test_settings_when_printed_then_no_secret_is_in_it() -> None:
    given = [*NEEDED, "--fetch-env=HTTPS_PROXY=http://me:s3cret-proxy@proxy"]
    assert "s3cret" not in repr(Settings.parse(given, VARIABLES))


@pytest.mark.parametrize(("text", "storage_class"), [([], None), (["--models-storage-class="], "")])
def test_settings_when_storage_class_is_empty_then_not_default(text: list[str], storage_class: str | None) -> None:
    assert Settings.parse([*NEEDED, *text], VARIABLES).models.storage_class == storage_class


def test_paths_are_those_of_the_api_server() -> None:
    assert POD.path(None) == "/api/v1/pods"
    assert (
        watched_kinds()[MODEL_DEPLOYMENT].path("a", "b")
        == "/apis/headrace.dev/v1alpha1/namespaces/a/modeldeployments/b"
    )
    deployment = watched_kinds()["Deployment"]
    assert (deployment.group, deployment.version) == ("apps", "v1")
    assert (POD.group, POD.version) == ("", "v1")


async def test_provide_when_called_twice_then_namespace_provided_once() -> None:
    api = RecordingApi()
    made = namespaces(api)
    await made.provide("team")
    await made.provide("team")
    assert api.writes == [("apply", SECRET), ("apply", CLAIM)]
    password = base64.b64decode(api.bodies[0]["data"]["password"]).decode()
    assert password == runtime_password("key", "team")


async def test_provide_when_claim_exists_or_is_foreign_then_untouched() -> None:
    api = RecordingApi()
    api.objects[CLAIM] = {"metadata": {}}
    await namespaces(api).provide("team")
    await namespaces(RecordingApi(), existing=True).provide("team")
    assert ("apply", CLAIM) not in api.writes


async def test_provide_when_the_namespace_was_recreated_then_again() -> None:
    api = RecordingApi()
    made = namespaces(api, existing=True)
    await made.provide("team")
    made.want(frozenset())
    made.want(frozenset({"team"}))
    await made.provide("team")
    assert api.writes == [("apply", SECRET), ("apply", SECRET)]


async def provided(monkeypatch: pytest.MonkeyPatch) -> tuple[Namespaces, RecordingApi]:
    """Return namespaces of which `team` is wanted and provided, and looked at often."""
    monkeypatch.setattr("headrace_operator.namespaces.AUDIT_SECONDS", 0.01)
    api = RecordingApi()
    made = namespaces(api, existing=True)
    made.want(frozenset({"team"}))
    await made.provide("team")
    return made, api


@pytest.mark.parametrize(
    ("found", "anew"), [(None, True), ({"password": "other"}, True), ({"somebody": "else's"}, False)]
)
async def test_login_when_deleted_or_changed_by_a_user_then_recreated(
    monkeypatch: pytest.MonkeyPatch, found: dict[str, Any] | None, *, anew: bool
) -> None:
    made, api = await provided(monkeypatch)
    keeping = asyncio.create_task(made.keep_provided())
    await asyncio.sleep(0.1)
    assert len(api.writes) == 1
    if found is None:
        del api.objects[SECRET]
    else:
        api.objects[SECRET]["data"] |= found
    await asyncio.sleep(0.1)
    keeping.cancel()
    await asyncio.wait([keeping])
    assert keeping.cancelled()
    assert api.writes == [("apply", SECRET)] * (1 + anew)


async def test_login_when_watch_reports_its_deletion_then_recreated() -> None:
    api = RecordingApi()
    made = namespaces(api, existing=True)
    await made.provide("team")
    del api.objects[SECRET]
    for namespace in ("elsewhere", "team"):
        api.happened.put_nowait(Change("DELETED", namespace))
    parts = [asyncio.create_task(made.keep_provided()), asyncio.create_task(made.watch_logins(None))]
    async with asyncio.timeout(10):
        while SECRET not in api.objects:
            await asyncio.sleep(0)
    for part in parts:
        part.cancel()
    assert api.writes == [("apply", SECRET)] * 2


async def test_login_when_its_last_model_goes_then_not_recreated(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made, api = await provided(monkeypatch)

    async def get(path: str) -> dict[str, object]:
        made.want(frozenset())
        raise ApiError(404, "not found")

    api.get = get  # type: ignore[method-assign]
    keeping = asyncio.create_task(made.keep_provided())
    await asyncio.sleep(0.1)
    keeping.cancel()
    await asyncio.wait([keeping])
    assert api.writes == [("apply", SECRET)]


@pytest.mark.parametrize(("status", "raises"), [(403, False), (422, False), (0, True), (429, True), (503, True)])
async def test_provide_when_claim_refused_then_only_retryable_retried(
    status: int,
    raises: bool,  # noqa: FBT001 - a table
) -> None:
    api = RecordingApi()
    made = namespaces(api)

    async def get(path: str) -> dict[str, object]:
        raise ApiError(status, "no")

    api.get = get  # type: ignore[method-assign]
    if raises:
        with pytest.raises(ApiError):
            await made.provide("team")
    else:
        await made.provide("team")


@pytest.mark.parametrize(
    ("silent", "stuck", "fault"),
    [
        (1.0, 0.0, None),
        (UNANSWERED_SECONDS + 1, 0.0, "API server"),
        (1.0, STUCK_SECONDS + 1, "no reconcile pass"),
    ],
)
def test_health_is_what_happened(silent: float, stuck: float, fault: str | None) -> None:
    health = Health(0, lambda: time.monotonic() - silent)
    health.stuck_seconds = lambda: stuck
    assert fault is None if health.fault() is None else fault is not None and fault in str(health.fault())
