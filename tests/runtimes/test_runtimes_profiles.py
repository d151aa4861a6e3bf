"""Each profile agrees with what is derived from it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from kinds.reconcile_world import SETTINGS, World, resource
from kinds.test_modeldeployment_manifests import child, in_cluster, pod_of, policy, ports

from headrace.api import vocabulary as v
from headrace.kinds.modeldeployment.spec import Runtime
from headrace.runtimes.llm import LLM
from headrace.runtimes.profile import PlatformImage, Port, RuntimeProfile
from headrace.runtimes.registry import PROFILES, register


def test_options_when_listed_then_each_field_has_one_type() -> None:
    named = sorted(profile.options for profile in PROFILES.values() if profile.options)
    assert named == sorted(Runtime.model_fields.keys() - {"type"})


@pytest.mark.parametrize("profile", PROFILES.values(), ids=PROFILES)
def test_profile_when_platform_image_then_local_mode_runs_it(profile: RuntimeProfile) -> None:
    assert not isinstance(profile.image, PlatformImage) or profile.command


@pytest.mark.parametrize(
    ("options", "capacity"), [({}, 16), ({"llm": {"maxModelLen": 16}}, 16), ({"llm": {"maxConcurrentRequests": 2}}, 2)]
)
def test_profile_when_options_are_given_then_it_has_them(options: dict[str, Any], capacity: int) -> None:
    assert Runtime.model_validate({"type": "LLM", **options}).profile.capacity == capacity


def test_type_when_it_is_registered_already_then_it_is_refused() -> None:
    with pytest.raises(ValueError, match="the runtime type LLM is registered already"):
        register(LLM)


def test_type_when_spec_is_imported_then_registration_is_refused() -> None:
    """The spec would not know it."""
    with pytest.raises(ValueError, match="must be registered before"):
        register(replace(LLM, type="Late"))
    assert "Late" not in PROFILES


def test_profile_when_without_command_or_options_then_type_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PROFILES, "LLM", replace(LLM, command=(), options="", configure=lambda same, _: same))
    world = World(manifest=resource(), settings=replace(SETTINGS, runs_images=False))
    world.look()
    accepted = world.condition(v.ACCEPTED)
    assert (accepted["reason"], accepted["message"].partition(":")[0]) == (v.INVALID_SPEC, "spec.runtime.type")


def test_profile_when_several_ports_then_in_service_and_policy(monkeypatch: pytest.MonkeyPatch) -> None:
    numbers = (Port("http", 8000), Port("grpc", 8001))
    monkeypatch.setitem(PROFILES, "LLM", replace(LLM, ports=numbers))
    world = in_cluster()
    assert [port["targetPort"] for port in child(world, "Service")["spec"]["ports"]] == ["http", "grpc"]
    (rule,) = policy(world, "runtime")["ingress"]
    assert ports(rule) == {("TCP", 8000), ("TCP", 8001)}


def test_resources_when_in_the_profile_then_default_of_pods(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(PROFILES, "LLM", replace(LLM, resources={"requests": {"cpu": "2"}}))
    given = {"limits": {"memory": "8Gi"}}
    assert pod_of(in_cluster())["containers"][0]["resources"] == {"requests": {"cpu": "2"}}
    assert pod_of(in_cluster(template={"resources": given}))["containers"][0]["resources"] == given
