"""Deployments, DaemonSets and Jobs in local mode."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from local.local_cluster import (
    MODEL,
    SLEEPER,
    container,
    daemon_set,
    deployment,
    eventually,
    get,
    job,
    probe,
    running,
    server,
    status_of,
    until,
    until_file,
    until_pod,
)

from headrace.control.world import ChildRefused
from headrace.environment import TERMINATION_MESSAGE_PATH
from headrace.local.cluster import LocalCluster
from headrace.local.node import node_name
from headrace.reconcile.world import Child, Manifest

DEAF = "trap '' TERM; while true; do sleep 600; done"


def going(pod: Manifest) -> bool:
    return "deletionTimestamp" in pod["metadata"]


def staying(cluster: LocalCluster) -> list[str]:
    return [pod["metadata"]["name"] for pod in cluster.index.list("Pod") if not going(pod)]


# -- Deployment ----------------------------------------------------------------------------------------------


async def test_deployment_when_scaled_has_that_many_pods(tmp_path: Path) -> None:
    async with running(tmp_path) as cluster:
        for replicas in (0, 3, 1, 2, 0):
            await cluster.apply(MODEL, deployment(container(SLEEPER), replicas))
            assert len(staying(cluster)) == replicas


async def test_deployment_when_scaled_down_ends_the_newest_pod(tmp_path: Path) -> None:
    async with running(tmp_path) as cluster:
        await cluster.apply(MODEL, deployment(container(SLEEPER), 1))
        oldest = staying(cluster)
        await cluster.apply(MODEL, deployment(container(SLEEPER), 3))
        await cluster.apply(MODEL, deployment(container(SLEEPER), 1))
        assert staying(cluster) == oldest


async def test_deployment_when_scaled_down_keeps_the_pod_that_is_ready(tmp_path: Path) -> None:
    """The first pod is never ready, the second is."""
    script = f'mkdir {tmp_path}/first 2>/dev/null && {SLEEPER}; exec "$0" "$@"'
    ready_second = server(tmp_path, readinessProbe=probe("/"))
    ready_second["command"] = ["sh", "-c", script, *ready_second["command"]]
    async with running(tmp_path) as cluster:
        await cluster.apply(MODEL, deployment(ready_second, 1))
        await eventually((tmp_path / "first").exists)
        await cluster.apply(MODEL, deployment(ready_second, 2))
        pods = await until(cluster, "Pod", lambda pods: any(status_of(pod)["ready"] for pod in pods))
        await cluster.apply(MODEL, deployment(ready_second, 1))
        assert staying(cluster) == [pod["metadata"]["name"] for pod in pods if status_of(pod)["ready"]]


async def test_deployment_when_template_changes_recreates_pods(tmp_path: Path) -> None:
    farewell = f"trap 'sleep 0.05; echo old gone >> {tmp_path}/told; exit 0' TERM"
    old = f"{farewell}; touch {tmp_path}/up; while :; do sleep 0.01; done"
    async with running(tmp_path) as cluster:
        await cluster.apply(MODEL, deployment(container(old)))
        await eventually((tmp_path / "up").exists)
        await cluster.apply(MODEL, deployment(container(f"echo new here >> {tmp_path}/told; {SLEEPER}")))
        assert await until_file(tmp_path / "told", 2) == ["old gone", "new here"]


async def test_deployment_when_its_pods_run_counts_them(tmp_path: Path) -> None:
    async with running(tmp_path) as cluster:
        await cluster.apply(MODEL, deployment(container(SLEEPER), 2))
        status = get(cluster, "Deployment", "smol-1")["status"]
        counts = {name: value for name, value in status.items() if name.endswith("eplicas")}
        assert counts == {
            "replicas": 2,
            "updatedReplicas": 2,
            "readyReplicas": 2,
            "availableReplicas": 2,
            "unavailableReplicas": 0,
        }
        assert status["observedGeneration"] == 1
        assert [(c["type"], c["status"]) for c in status["conditions"]] == [("Available", "True")]


async def test_deployment_when_scaled_counts_a_generation(tmp_path: Path) -> None:
    async with running(tmp_path) as cluster:
        await cluster.apply(MODEL, deployment(container(SLEEPER), 0))
        before = get(cluster, "Deployment", "smol-1")["metadata"]
        await cluster.apply(MODEL, deployment(container(SLEEPER), 1))
        after = get(cluster, "Deployment", "smol-1")["metadata"]
        assert (before["generation"], after["generation"]) == (1, 2)
        assert before["uid"] == after["uid"]


async def test_deployment_when_recreated_ignores_terminating_pods(tmp_path: Path) -> None:
    async with running(tmp_path) as cluster:
        child = deployment(container(DEAF), terminationGracePeriodSeconds=0.2)
        await cluster.apply(MODEL, child)
        (old,) = staying(cluster)
        await cluster.delete(MODEL, child.key)
        await cluster.apply(MODEL, child)
        assert len(cluster.index.list("Pod")) == 2
        assert old not in staying(cluster)
        await until(cluster, "Pod", lambda pods: len(pods) == 1)
        assert get(cluster, "Deployment", "smol-1")["status"]["replicas"] == 1


# -- DaemonSet -----------------------------------------------------------------------------------------------


async def test_daemon_set_when_applied_has_one_pod_on_the_node(tmp_path: Path) -> None:
    async with running(tmp_path) as cluster:
        await cluster.apply(MODEL, daemon_set(server(tmp_path, readinessProbe=probe("/ready"))))
        await cluster.apply(MODEL, daemon_set(server(tmp_path, readinessProbe=probe("/ready"))))
        (pod,) = cluster.observe(MODEL).pods
        assert pod["spec"]["nodeName"] == node_name()
        assert _counts(cluster) == (1, 1, 1, 0, 0, 1)
        (tmp_path / "ready").touch()
        await until(cluster, "DaemonSet", lambda sets: sets[0]["status"]["numberReady"] == 1)
        assert _counts(cluster) == (1, 1, 1, 1, 1, 0)
        assert get(cluster, "DaemonSet", "smol-agent")["status"]["observedGeneration"] == 1


async def test_daemon_set_when_its_template_changes_replaces_the_pod(tmp_path: Path) -> None:
    """The pod of the former template has ended when the new one starts."""
    old = f"trap 'echo old gone >> {tmp_path}/log; exit 0' TERM; touch {tmp_path}/up; while :; do sleep 0.01; done"
    async with running(tmp_path) as cluster:
        await cluster.apply(MODEL, daemon_set(container(old)))
        await eventually((tmp_path / "up").exists)
        await cluster.apply(MODEL, daemon_set(container(f"echo new here >> {tmp_path}/log; {SLEEPER}")))
        assert await until_file(tmp_path / "log", 2) == ["old gone", "new here"]
        assert len(cluster.index.list("Pod")) == 1


async def test_daemon_set_when_its_container_fails_restarts_it(tmp_path: Path) -> None:
    async with running(tmp_path) as cluster:
        await cluster.apply(MODEL, daemon_set(container(f"echo start >> {tmp_path}/log; exit 1")))
        await until_file(tmp_path / "log", 3)
        assert (await until_pod(cluster, lambda status: status["restartCount"] >= 2))["name"] == "main"


async def test_daemon_set_when_deleted_ends_its_pod(tmp_path: Path) -> None:
    async with running(tmp_path) as cluster:
        child = daemon_set(container(SLEEPER))
        await cluster.apply(MODEL, child)
        assert list(cluster.observe(MODEL).children) == [child.key]
        await cluster.delete(MODEL, child.key)
        await until(cluster, "Pod", lambda pods: not pods)
        assert cluster.observe(MODEL).children == {}


def _counts(cluster: LocalCluster) -> tuple[int, ...]:
    status = get(cluster, "DaemonSet", "smol-agent")["status"]
    names = ("desiredNumberScheduled", "currentNumberScheduled", "updatedNumberScheduled")
    return tuple(status[name] for name in (*names, "numberReady", "numberAvailable", "numberUnavailable"))


# -- Job -----------------------------------------------------------------------------------------------------


async def test_job_when_pod_succeeds_is_complete_and_keeps_it(tmp_path: Path) -> None:
    async with running(tmp_path) as cluster:
        await cluster.apply(MODEL, job(container(f"echo '{{}}' > ${TERMINATION_MESSAGE_PATH}")))
        (done,) = await until(cluster, "Job", lambda jobs: "conditions" in jobs[0]["status"])
        assert done["status"]["succeeded"] == 1
        assert done["status"]["conditions"][0]["type"] == "Complete"
        (pod,) = cluster.index.list("Pod")
        assert pod["status"]["phase"] == "Succeeded"
        assert status_of(pod)["state"]["terminated"]["reason"] == "Completed"
        assert status_of(pod)["state"]["terminated"]["message"] == "{}"


async def test_job_when_it_ended_its_time_ago_is_removed_with_its_pod(tmp_path: Path) -> None:
    async with running(tmp_path) as cluster:
        await cluster.apply(MODEL, job(container("true"), ttlSecondsAfterFinished=0))
        await until(cluster, "Job", lambda jobs: not jobs)
        await until(cluster, "Pod", lambda pods: not pods)


async def test_job_when_it_runs_is_active(tmp_path: Path) -> None:
    async with running(tmp_path) as cluster:
        await cluster.apply(MODEL, job(container(SLEEPER)))
        assert get(cluster, "Job", "smol-fetch-1")["status"] == {"active": 1}


async def test_job_when_its_pod_fails_and_then_succeeds_is_complete(tmp_path: Path) -> None:
    async with running(tmp_path) as cluster:
        script = f"mkdir {tmp_path}/a && exit 1; mkdir {tmp_path}/b && exit 1; exit 0"
        await cluster.apply(MODEL, job(container(script)))
        await until(cluster, "Job", lambda jobs: jobs[0]["status"].get("succeeded") == 1)
        status = await until_pod(cluster, lambda status: "terminated" in status["state"])
        assert status["restartCount"] == 2


async def test_job_at_its_backoff_limit_fails_and_ends_its_pod(tmp_path: Path) -> None:
    async with running(tmp_path) as cluster:
        await cluster.apply(MODEL, job(container("exit 1"), backoffLimit=2))
        await until(cluster, "Pod", lambda pods: not pods)
        status = get(cluster, "Job", "smol-fetch-1")["status"]
        assert status["failed"] == 1
        assert status["conditions"][0]["type"] == "Failed"
        assert status["conditions"][0]["reason"] == "BackoffLimitExceeded"


async def test_job_when_complete_and_applied_again_is_not_run_again(tmp_path: Path) -> None:
    async with running(tmp_path) as cluster:
        child = job(container(f"echo run >> {tmp_path}/runs"))
        await cluster.apply(MODEL, child)
        await until(cluster, "Job", lambda jobs: jobs[0]["status"].get("succeeded") == 1)
        before = get(cluster, "Job", "smol-fetch-1")
        await cluster.apply(MODEL, child)
        assert get(cluster, "Job", "smol-fetch-1") is before
        assert len(cluster.index.list("Pod")) == 1


# -- what is refused -----------------------------------------------------------------------------------------


def _changed(child: Child, **fields: Any) -> Child:
    return Child(child.key, {**child.manifest, "spec": {**child.manifest["spec"], **fields}})


@pytest.mark.parametrize(
    ("named", "child"),
    [
        ("strategy", _changed(deployment(container(SLEEPER)), strategy={"type": "RollingUpdate"})),
        ("minReadySeconds", _changed(deployment(container(SLEEPER)), minReadySeconds=5)),
        ("restartPolicy", deployment(container(SLEEPER), restartPolicy="Never")),
        ("completions", job(container(SLEEPER), completions=2)),
        ("restartPolicy", _changed(job(container("")), template={"spec": {"containers": [container("")]}})),
        ("hostPath", deployment(container(SLEEPER), volumes=[{"name": "models", "hostPath": {}}])),
        ("replicas", _changed(daemon_set(container(SLEEPER)), replicas=1)),
        ("update strategy", _changed(daemon_set(container(SLEEPER)), updateStrategy={"type": "OnDelete"})),
        ("restartPolicy", daemon_set(container(SLEEPER), restartPolicy="OnFailure")),
    ],
)
async def test_unsupported_workload_is_refused_by_name(named: str, child: Child, tmp_path: Path) -> None:
    async with running(tmp_path) as cluster:
        with pytest.raises(ChildRefused, match=named):
            await cluster.apply(MODEL, child)
        assert cluster.index.list(child.key.kind) == []
