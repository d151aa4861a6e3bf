"""Exit messages of containers: quoted in conditions, bounded and printable; clients never receive a log."""

from __future__ import annotations

import copy

import pytest
from kinds.reconcile_world import SETTINGS, World, resource, serving_world, unavailable
from kinds.test_modeldeployment_custom_container import spec
from kinds.test_modeldeployment_manifests import CLUSTER, child, pod_of

from headrace.api import vocabulary as v
from headrace.kinds.modeldeployment.exit_message import MAX_LOG_CHARACTERS, exit_description, without_log
from headrace.kinds.modeldeployment.resource import ModelDeployment
from headrace.kinds.modeldeployment.revision import revision_of
from headrace.reconcile.world import Settings
from headrace.termination import FALLBACK

TRACEBACK = 'Traceback (most recent call last):\n  File "serve.py", line 3\nValueError: no such tokenizer\n'


@pytest.mark.parametrize(
    ("message", "quoted"),
    [
        (TRACEBACK, 'Traceback (most recent call last): | File "serve.py", line 3 | ValueError: no such tokenizer'),
        ("\x1b[31mred\x1b[0m\r\nnext\x00line\n\n", "red | next line"),
        ("\x1b]0;title\x07a\tb\n\x9bc", "a b | c"),
        ("x\n" + "é" * 5000, "…" + "é" * (MAX_LOG_CHARACTERS - 1)),
        ("y" * 2048, "…" + "y" * (MAX_LOG_CHARACTERS - 1)),
    ],
)
def test_log_when_quoted_then_last_lines_without_control_chars(message: str, quoted: str) -> None:
    ended = exit_description({"exitCode": 3, "message": message}, may_be_log=True)
    assert ended == f"(exit code 3); its log ends: {quoted}"


@pytest.mark.parametrize("may_be_log", [False, True])
def test_message_when_there_is_none_then_the_log_is_named(*, may_be_log: bool) -> None:
    assert (
        exit_description({"exitCode": 3}, may_be_log=may_be_log)
        == "(exit code 3): there is no termination message; see its log"
    )


def test_message_when_one_line_then_clients_get_it_unless_a_log() -> None:
    ended = {"exitCode": 3, "message": "no GPU\n"}
    own, either = (f"it exits {exit_description(ended, may_be_log=may_be_log)}" for may_be_log in (False, True))
    assert own == without_log(own) == "it exits (exit code 3): no GPU"
    assert either == "it exits (exit code 3); its last line: no GPU"
    assert without_log(either).startswith("it exits (exit code 3); the conditions of the ModelDeployment have")
    assert "GPU" not in without_log(either)


def test_log_when_it_fills_kubelet_limit_with_spaces_then_a_log() -> None:
    assert "its log ends: x" in exit_description({"exitCode": 3, "message": "x" + " " * 2047}, may_be_log=True)


@pytest.mark.parametrize("may_be_log", [False, True])
def test_end_when_out_of_memory_then_the_limit_is_named(*, may_be_log: bool) -> None:
    terminated = {"exitCode": 137, "reason": "OOMKilled", "message": "prompt: secret"}
    ended = exit_description(terminated, may_be_log=may_be_log)
    assert ended == without_log(ended)
    assert "(exit code 137, OOMKilled): it exceeded its memory limit" in ended
    assert "spec.template.resources.limits.memory" in ended
    assert "secret" not in ended


def test_message_when_no_log_in_it_then_clients_get_it_whole() -> None:
    assert without_log("the file is cut. Fetch it again") == "the file is cut. Fetch it again"


def test_crash_when_only_log_left_then_only_conditions_quote_it() -> None:
    """Clients do not get it."""
    world = serving_world(**spec())
    (pod,) = world.runtimes()
    world.crash_loop(pod, TRACEBACK, code=3)
    outcome = world.look()
    for type_ in (v.READY, v.WORKLOADS_READY):
        assert "ValueError: no such tokenizer" in world.condition(type_)["message"]
    assert "exit code 3" in unavailable(outcome).message
    assert "tokenizer" not in unavailable(outcome).message


def test_deadline_when_container_crashed_then_clients_get_no_log() -> None:
    world = serving_world(**spec(), rollout={"startupDeadlineSeconds": 5})
    (pod,) = world.runtimes()
    world.crash(pod, TRACEBACK, code=3)
    last = world.pods[pod]["status"]["containerStatuses"][0]["lastState"]
    world.container(pod, {"running": {"startedAt": world.stamp()}}, restartCount=1, lastState=last)
    world.pass_time(8)
    assert world.says(v.READY) == ("False", v.STARTUP_DEADLINE_EXCEEDED)
    assert "ValueError: no such tokenizer" in world.condition(v.READY)["message"]
    assert "tokenizer" not in unavailable(world.outcome).message


# -- an upgrade restarts nothing -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "custom", "ours"), [(SETTINGS, "b249b4a1", "ec55fcfd"), (CLUSTER, "4c717ea7", "775bf140")]
)
def test_revision_when_headrace_is_upgraded_then_it_is_unchanged(settings: Settings, custom: str, ours: str) -> None:
    """A new hash here restarts every model at the next upgrade: leave the field out (`without_later_fields`)."""
    assert revision_of(ModelDeployment.parse(resource(**spec())), settings) == custom
    assert revision_of(ModelDeployment.parse(resource()), settings) == ours


@pytest.mark.parametrize("server_default", [{}, {"terminationMessagePolicy": "File"}])
def test_deployment_when_older_than_policy_then_not_rewritten(
    server_default: dict[str, str],
) -> None:
    world = serving_world(**spec())
    container = pod_of(world)["containers"][0]
    assert container.pop("terminationMessagePolicy") == FALLBACK
    before = copy.deepcopy(child(world, "Deployment")["spec"]["template"])
    container.update(server_default)
    world.restart_loop()
    (made,) = [each.manifest for each in world.decide().children if each.key.kind == "Deployment"]
    assert made["spec"]["template"] == before
    world.apply(**spec(image="next"))
    world.calm()
    assert pod_of(world)["containers"][0]["terminationMessagePolicy"] == FALLBACK


def test_runtime_when_it_is_ours_then_it_leaves_its_own_message() -> None:
    world: World = serving_world(replicas=1)
    assert "terminationMessagePolicy" not in pod_of(world)["containers"][0]
