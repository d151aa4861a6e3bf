"""What a kubelet does with a pod, on this machine."""

from __future__ import annotations

import os
import signal
import socket
from functools import partial
from pathlib import Path

import pytest
from local.local_cluster import (
    MODEL,
    SLEEPER,
    conditions,
    container,
    deployment,
    eventually,
    get,
    probe,
    running,
    secret,
    server,
    status_of,
    until,
    until_file,
    until_pod,
)

from headrace.api.vocabulary import ROUTABLE_GATE
from headrace.environment import TERMINATION_MESSAGE_PATH
from headrace.local import pods as pods_module
from headrace.local.pods import Backoff
from headrace.reconcile.world import Manifest, ObjectKey
from headrace.termination import MAX_BYTES

SLOW = Backoff(first_seconds=600, longest_seconds=600)
GATE = [{"conditionType": ROUTABLE_GATE}]


# -- starting ------------------------------------------------------------------------------------------------


async def test_pod_when_deployment_is_applied_runs_on_return(tmp_path: Path) -> None:
    async with running(tmp_path) as cluster:
        await cluster.apply(MODEL, deployment(container(SLEEPER)))
        (pod,) = cluster.index.list("Pod")
        assert pod["status"]["phase"] == "Running"
        assert "running" in status_of(pod)["state"]


async def test_pod_when_started_has_its_name_and_address(tmp_path: Path) -> None:
    fields = {"NAME": "metadata.name", "ADDRESS": "status.podIP"}
    env = [{"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}} for name, path in fields.items()]
    async with running(tmp_path) as cluster:
        script = f"echo $NAME $ADDRESS >> {tmp_path}/told; {SLEEPER}"
        await cluster.apply(MODEL, deployment(container(script, env=env), replicas=2))
        told = await until_file(tmp_path / "told", 2)
        pods = cluster.index.list("Pod")
        assert sorted(told) == [f"{pod['metadata']['name']} {pod['status']['podIP']}" for pod in pods]
        assert len({pod["status"]["podIP"] for pod in pods}) == 2
        assert all(pod["status"]["podIP"].startswith("127.") for pod in pods)


async def test_pod_when_the_command_does_not_exist_waits_and_names_it(tmp_path: Path) -> None:
    async with running(tmp_path, SLOW) as cluster:
        await cluster.apply(MODEL, deployment({"name": "main", "command": ["no-such-program"]}))
        (pod,) = cluster.index.list("Pod")
        waiting = status_of(pod)["state"]["waiting"]
        assert waiting["reason"] == "CreateContainerError"
        assert waiting["message"] == "cannot execute no-such-program: No such file or directory"


async def test_pod_when_a_variable_holds_a_zero_byte_waits_and_says_so(tmp_path: Path) -> None:
    async with running(tmp_path, SLOW) as cluster:
        await cluster.apply(MODEL, deployment(container(SLEEPER, env=[{"name": "A", "value": "\0"}])))
        (pod,) = cluster.index.list("Pod")
        assert "null byte" in status_of(pod)["state"]["waiting"]["message"]


async def test_pod_when_its_secret_comes_later_starts_at_that_moment(tmp_path: Path) -> None:
    env = [{"name": "A", "valueFrom": {"secretKeyRef": {"name": "login", "key": "user"}}}]
    async with running(tmp_path, SLOW) as cluster:
        await cluster.apply(MODEL, deployment(container(SLEEPER, env=env)))
        (pod,) = cluster.index.list("Pod")
        assert status_of(pod)["state"]["waiting"]["reason"] == "CreateContainerConfigError"
        cluster.apply_object(secret("login", user="ann"))
        status = await until_pod(cluster, lambda status: "running" in status["state"])
        assert status["restartCount"] == 0


# -- ending and starting again -------------------------------------------------------------------------------


async def test_container_when_it_crashes_once_restarts_at_once(tmp_path: Path) -> None:
    script = f"echo life >> {tmp_path}/lives; test $(wc -l < {tmp_path}/lives) -gt 1 && {SLEEPER}; exit 3"
    async with running(tmp_path, SLOW) as cluster:
        await cluster.apply(MODEL, deployment(container(script)))
        status = await until_pod(cluster, lambda status: status["restartCount"] == 1)
        assert "running" in status["state"]
        ended = status["lastState"]["terminated"]
        assert (ended["exitCode"], ended["reason"]) == (3, "Error")
        assert ended["startedAt"] <= ended["finishedAt"]


async def test_container_when_killed_restarts_and_reports_the_signal(
    tmp_path: Path,
) -> None:
    async with running(tmp_path, SLOW) as cluster:
        await cluster.apply(MODEL, deployment(container(f"echo $$$$ >> {tmp_path}/pid; {SLEEPER}")))
        (pid,) = await until_file(tmp_path / "pid")
        os.kill(int(pid), signal.SIGKILL)
        status = await until_pod(cluster, lambda status: status["restartCount"] == 1)
        assert (status["lastState"]["terminated"]["exitCode"], status["lastState"]["terminated"]["signal"]) == (137, 9)


async def test_pod_when_its_container_keeps_crashing_backs_off(tmp_path: Path) -> None:
    async with running(tmp_path, SLOW) as cluster:
        await cluster.apply(MODEL, deployment(container(f"echo life >> {tmp_path}/lives; exit 1")))
        status = await until_pod(cluster, lambda status: "waiting" in status["state"])
        assert status["state"]["waiting"]["reason"] == "CrashLoopBackOff"
        assert status["lastState"]["terminated"]["exitCode"] == 1
        assert len((tmp_path / "lives").read_text().splitlines()) == 2


async def test_pod_when_its_back_off_is_over_is_tried_again(tmp_path: Path) -> None:
    async with running(tmp_path) as cluster:
        await cluster.apply(MODEL, deployment(container("exit 1")))
        await until_pod(cluster, lambda status: status["restartCount"] == 3)


def test_backoff_when_crashes_repeat_doubles_from_10_s_to_5_min() -> None:
    delays, delay = [], None
    for _ in range(8):
        delay = Backoff().after(delay, ran_seconds=1)
        delays.append(delay)
    assert delays == [0, 10, 20, 40, 80, 160, 300, 300]


def test_backoff_when_the_container_ran_for_ten_minutes_forgets() -> None:
    assert Backoff().after(300, ran_seconds=600) == 0


@pytest.mark.parametrize(("ready_seconds", "delay"), [(10, 0), (9, 20), (0, 20)])
def test_backoff_when_container_was_ready_is_reset(ready_seconds: float, delay: float) -> None:
    assert Backoff().after(10, ran_seconds=30, ready_seconds=ready_seconds) == delay


async def test_container_when_ready_between_crashes_restarts_at_once(tmp_path: Path) -> None:
    """Its third life would otherwise begin after ten minutes."""
    (tmp_path / "ready").touch()
    forgiving = Backoff(first_seconds=600, longest_seconds=600, ready_seconds=1e-9)
    async with running(tmp_path, forgiving) as cluster:
        await cluster.apply(MODEL, deployment(server(tmp_path, readinessProbe=probe("/ready"))))
        for restarts in range(1, 4):
            await until_pod(cluster, lambda status: bool(status["ready"]))
            (pod,) = cluster.index.list("Pod")
            cluster._pods._pods[ObjectKey.of(pod)].kill()
            await until_pod(cluster, partial(has_restarted, restarts))


def has_restarted(times: int, status: Manifest) -> bool:
    return bool(status["restartCount"] == times)


async def test_container_without_readiness_probe_backs_off(tmp_path: Path) -> None:
    forgiving = Backoff(first_seconds=600, longest_seconds=600, ready_seconds=1e-9)
    async with running(tmp_path, forgiving) as cluster:
        await cluster.apply(MODEL, deployment(container("sleep 0.01; exit 1")))
        status = await until_pod(cluster, lambda status: "waiting" in status["state"])
        assert status["state"]["waiting"]["reason"] == "CrashLoopBackOff"


async def test_pod_when_its_container_leaves_last_words_quotes_them(tmp_path: Path) -> None:
    script = f"printf 'no memory. Buy some\\n' > ${TERMINATION_MESSAGE_PATH}; exit 1"
    async with running(tmp_path, SLOW) as cluster:
        await cluster.apply(MODEL, deployment(container(script)))
        status = await until_pod(cluster, lambda status: status["restartCount"] == 1)
        assert status["lastState"]["terminated"]["message"] == "no memory. Buy some"


async def test_termination_message_when_long_is_cut_as_by_a_kubelet(tmp_path: Path) -> None:
    script = f"head -c 10000 /dev/zero | tr '\\0' x > ${TERMINATION_MESSAGE_PATH}; exit 1"
    async with running(tmp_path, SLOW) as cluster:
        await cluster.apply(MODEL, deployment(container(script)))
        status = await until_pod(cluster, lambda status: status["restartCount"] == 1)
        assert status["lastState"]["terminated"]["message"] == "x" * MAX_BYTES


@pytest.mark.parametrize(
    ("policy", "last", "message"),
    [
        ("FallbackToLogsOnError", "exit 1", "y" * 1_000 + "\nthe end"),
        ("FallbackToLogsOnError", f"echo own > ${TERMINATION_MESSAGE_PATH}; exit 1", "own"),
        ("FallbackToLogsOnError", "exit 0", None),
        ("File", "exit 1", None),
    ],
)
async def test_termination_message_falls_back_to_the_log_if_set(
    tmp_path: Path, policy: str, last: str, message: str | None
) -> None:
    script = f"seq 5000; printf '%01000d\n' 0 | tr 0 y; echo the end; {last}"
    async with running(tmp_path, SLOW) as cluster:
        await cluster.apply(MODEL, deployment(container(script, terminationMessagePolicy=policy)))
        status = await until_pod(cluster, lambda status: status["restartCount"] == 1)
        said = status["lastState"]["terminated"].get("message")
        assert (said or "")[-len(message or "") :] == (message or "")
        assert said is None or len(said) <= 2048


async def test_termination_message_when_restarted_is_not_repeated(tmp_path: Path) -> None:
    script = (
        f"test -e {tmp_path}/second && exit 1; touch {tmp_path}/second; echo a > ${TERMINATION_MESSAGE_PATH}; exit 1"
    )
    async with running(tmp_path, SLOW) as cluster:
        await cluster.apply(MODEL, deployment(container(script)))
        status = await until_pod(cluster, lambda status: "waiting" in status["state"])
        assert "message" not in status["lastState"]["terminated"]


# -- going ---------------------------------------------------------------------------------------------------


async def test_pod_when_told_to_go_is_seen_going_and_then_gone(tmp_path: Path) -> None:
    script = f"trap 'echo bye > {tmp_path}/bye; exit 0' TERM; touch {tmp_path}/up; while true; do sleep 0.01; done"
    async with running(tmp_path) as cluster:
        child = deployment(container(script))
        await cluster.apply(MODEL, child)
        await eventually((tmp_path / "up").exists)
        await cluster.delete(MODEL, child.key)
        (pod,) = cluster.index.list("Pod")
        assert pod["metadata"]["deletionTimestamp"]
        await until(cluster, "Pod", lambda pods: not pods)
        assert (tmp_path / "bye").read_text() == "bye\n"


async def test_pod_when_deaf_is_killed_after_its_own_grace(tmp_path: Path) -> None:
    script = f"trap '' TERM; touch {tmp_path}/up; while true; do sleep 600; done"
    async with running(tmp_path) as cluster:
        child = deployment(container(script), terminationGracePeriodSeconds=0.1)
        await cluster.apply(MODEL, child)
        await eventually((tmp_path / "up").exists)
        await cluster.delete(MODEL, child.key)
        await until(cluster, "Pod", lambda pods: not pods)


async def test_pod_when_told_to_go_while_it_backs_off_goes_at_once(tmp_path: Path) -> None:
    async with running(tmp_path, SLOW) as cluster:
        child = deployment(container("exit 1"))
        await cluster.apply(MODEL, child)
        await until_pod(cluster, lambda status: "waiting" in status["state"])
        await cluster.delete(MODEL, child.key)
        await until(cluster, "Pod", lambda pods: not pods)


async def test_pod_when_gone_leaves_no_file_behind(tmp_path: Path) -> None:
    async with running(tmp_path) as cluster:
        child = deployment(container("echo out"))
        await cluster.apply(MODEL, child)
        await until_pod(cluster, lambda status: status["restartCount"] == 2)
        await cluster.delete(MODEL, child.key)
        await until(cluster, "Pod", lambda pods: not pods)
        assert list((tmp_path / "pods").iterdir()) == []


# -- probes --------------------------------------------------------------------------------------------------


async def test_readiness_when_the_probe_turns_follows_it(tmp_path: Path) -> None:
    async with running(tmp_path) as cluster:
        await cluster.apply(MODEL, deployment(server(tmp_path, readinessProbe=probe("/ready", failureThreshold=1))))
        (pod,) = cluster.index.list("Pod")
        assert not status_of(pod)["ready"]
        (tmp_path / "ready").touch()
        await until_pod(cluster, lambda status: status["ready"])
        assert get(cluster, "Deployment", "smol-1")["status"]["readyReplicas"] == 1
        (tmp_path / "ready").unlink()
        await until_pod(cluster, lambda status: not status["ready"])
        assert get(cluster, "Deployment", "smol-1")["status"]["readyReplicas"] == 0


async def test_readiness_when_probed_by_tcp_follows_the_listener(tmp_path: Path) -> None:
    connection = {"tcpSocket": {"port": 8000}, "periodSeconds": 0.05}
    async with running(tmp_path) as cluster:
        await cluster.apply(MODEL, deployment(server(tmp_path, readinessProbe=connection)))
        await until_pod(cluster, lambda status: status["ready"])


async def test_liveness_when_it_fails_restarts_with_grace(tmp_path: Path) -> None:
    (tmp_path / "live").touch()
    probes = {
        "startupProbe": probe("/live", failureThreshold=1000),
        "livenessProbe": probe("/live", failureThreshold=2),
    }
    async with running(tmp_path, SLOW) as cluster:
        await cluster.apply(MODEL, deployment(server(tmp_path, **probes)))
        await until_pod(cluster, lambda status: status["ready"])
        (tmp_path / "live").unlink()
        status = await until_pod(cluster, lambda status: status["restartCount"] == 1)
        assert status["lastState"]["terminated"]["exitCode"] == 128 + signal.SIGTERM


async def test_startup_probe_until_it_succeeds_delays_the_others(tmp_path: Path) -> None:
    (tmp_path / "ready").touch()
    probes = {
        "startupProbe": probe("/started", failureThreshold=1000),
        "livenessProbe": probe("/started", failureThreshold=1),
        "readinessProbe": probe("/ready"),
    }
    async with running(tmp_path, SLOW) as cluster:
        await cluster.apply(MODEL, deployment(server(tmp_path, **probes)))
        (pod,) = cluster.index.list("Pod")
        await eventually(lambda: _listens(pod["status"]["podIP"]))
        assert (status_of(pod)["started"], status_of(pod)["ready"]) == (False, False)
        (tmp_path / "started").touch()
        status = await until_pod(cluster, lambda status: status["ready"])
        assert (status["started"], status["restartCount"]) == (True, 0)


async def test_startup_probe_when_it_fails_restarts_the_container(tmp_path: Path) -> None:
    async with running(tmp_path, SLOW) as cluster:
        await cluster.apply(MODEL, deployment(server(tmp_path, startupProbe=probe("/started", failureThreshold=2))))
        await until_pod(cluster, lambda status: status["restartCount"] == 1)


async def test_pod_when_its_gate_is_closed_is_ready_only_once_it_opens(tmp_path: Path) -> None:
    async with running(tmp_path) as cluster:
        await cluster.apply(MODEL, deployment(container(SLEEPER), readinessGates=GATE))
        (pod,) = cluster.index.list("Pod")
        assert conditions(pod).items() >= {"ContainersReady": "True", "Ready": "False"}.items()
        assert ROUTABLE_GATE not in conditions(pod)
        await cluster.set_routable(MODEL, frozenset({pod["metadata"]["name"]}))
        (pod,) = cluster.index.list("Pod")
        assert conditions(pod)["Ready"] == "True"
        await cluster.set_routable(MODEL, frozenset())
        (pod,) = cluster.index.list("Pod")
        assert conditions(pod)["Ready"] == "False"


async def test_pod_when_a_gate_is_nobodys_never_is_ready(tmp_path: Path) -> None:
    async with running(tmp_path) as cluster:
        await cluster.apply(MODEL, deployment(container(SLEEPER), readinessGates=[{"conditionType": "other.io/gate"}]))
        (pod,) = cluster.index.list("Pod")
        await cluster.set_routable(MODEL, frozenset({pod["metadata"]["name"]}))
        (pod,) = cluster.index.list("Pod")
        assert conditions(pod)["Ready"] == "False"


# -- logs --------------------------------------------------------------------------------------------------


async def test_logs_when_container_restarted_keep_the_previous(tmp_path: Path) -> None:
    async with running(tmp_path, SLOW) as cluster:
        script = f"echo life >> {tmp_path}/lives; wc -l < {tmp_path}/lives; exit 1"
        await cluster.apply(MODEL, deployment(container(script)))
        await until_pod(cluster, lambda status: "waiting" in status["state"])
        (pod,) = cluster.index.list("Pod")
        texts = []
        for previous in (True, False):
            logs = cluster.logs("default", pod["metadata"]["name"], follow=False, tail_lines=None, previous=previous)
            texts.append(b"".join([chunk async for chunk in logs]))
        assert texts == [b"1\n", b"2\n"]


async def test_log_when_it_grows_too_long_begins_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pods_module, "MAX_LOG_BYTES", 1000)
    monkeypatch.setattr(pods_module, "TRIM_SECONDS", 0.01)
    script = (
        f"head -c 5000 /dev/zero; touch {tmp_path}/full; until test -e {tmp_path}/go; do sleep 0.01; done; echo new"
    )
    async with running(tmp_path) as cluster:
        await cluster.apply(MODEL, deployment(container(f"{script}; {SLEEPER}")))
        (log,) = (tmp_path / "pods").glob("*.log")
        await eventually((tmp_path / "full").exists)
        await eventually(lambda: log.stat().st_size == 0)
        (tmp_path / "go").touch()
        assert await until_file(log) == ["new"]


def _listens(address: str) -> bool:
    with socket.socket() as connection:
        return connection.connect_ex((address, 8000)) == 0
