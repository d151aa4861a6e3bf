"""emptyDir volumes in local mode."""

from __future__ import annotations

from pathlib import Path

import pytest
from local.local_cluster import MODEL, SLEEPER, container, deployment, running, until, until_file, until_pod

from headrace.control.world import ChildRefused
from headrace.local.volumes import replace_mount_paths
from headrace.reconcile.world import Manifest

DIRECTORY = Path("/var/d")
VOLUMES = [{"name": "cache", "emptyDir": {"sizeLimit": "1Gi"}}, {"name": "shm", "emptyDir": {"medium": "Memory"}}]
MOUNTS = [{"name": "cache", "mountPath": "/cache"}, {"name": "shm", "mountPath": "/dev/shm/"}]


@pytest.mark.parametrize(
    ("text", "replaced"),
    [
        ("/cache", "/var/d"),
        ("/cache/x", "/var/d/x"),
        ("--cache=/cache/x:/cache", "--cache=/var/d/x:/var/d"),
        ("echo 1 > '/cache/x'", "echo 1 > '/var/d/x'"),
        ("file:///cache/x", "file:///var/d/x"),
        ("/cache/deep/y", "/var/e/y"),
        ("/cache2 /cache-x /cache.d", "/cache2 /cache-x /cache.d"),
        (
            "/tmp/cache $(HOME)/cache ${HOME}/cache ~/cache ./cache",
            "/tmp/cache $(HOME)/cache ${HOME}/cache ~/cache ./cache",
        ),
        ("https://example.com/cache", "https://example.com/cache"),
    ],
)
def test_mount_path_in_text_is_replaced(text: str, replaced: str) -> None:
    """Wherever it is a whole path; the longest mount path wins."""
    assert replace_mount_paths(text, {"/cache": DIRECTORY, "/cache/deep": Path("/var/e")}) == replaced


async def test_volume_lasts_as_long_as_its_pod(tmp_path: Path) -> None:
    """A restarted container finds its files; the end of the pod removes them."""
    script = "echo x >> /cache/starts; cp /cache/starts $COPY; echo $SHARED >> $COPY; touch /dev/shm/y; exit 1"
    env = [{"name": "COPY", "value": f"{tmp_path}/copy"}, {"name": "SHARED", "value": "/dev/shm"}]
    async with running(tmp_path) as cluster:
        child = deployment(container(script, volumeMounts=MOUNTS, env=env), volumes=VOLUMES)
        await cluster.apply(MODEL, child)
        await until_pod(cluster, lambda status: status["restartCount"] >= 2)
        *starts, shared = await until_file(tmp_path / "copy", 3)
        assert starts[:2] == ["x", "x"]
        assert (Path(shared) / "y").exists()
        assert Path(shared).is_relative_to(tmp_path / "pods")
        await cluster.delete(MODEL, child.key)
        await until(cluster, "Pod", lambda pods: not pods)
        assert list((tmp_path / "pods").iterdir()) == []


async def test_volumes_of_two_pods_are_distinct(tmp_path: Path) -> None:
    script = f"echo /cache >> {tmp_path}/told; {SLEEPER}"
    async with running(tmp_path) as cluster:
        await cluster.apply(MODEL, deployment(container(script, volumeMounts=MOUNTS), 2, volumes=VOLUMES))
        assert len(set(await until_file(tmp_path / "told", 2))) == 2


async def test_volumes_of_a_killed_instance_are_removed(tmp_path: Path) -> None:
    left = tmp_path / "pods" / "default.smol-1-a.volumes" / "cache"
    left.mkdir(parents=True)
    (left / "file").touch()
    async with running(tmp_path):
        assert list((tmp_path / "pods").iterdir()) == []


async def test_pod_waits_while_its_volume_cannot_be_made(tmp_path: Path) -> None:
    async with running(tmp_path) as cluster:
        (tmp_path / "pods").rmdir()
        (tmp_path / "pods").touch()
        await cluster.apply(MODEL, deployment(container("true", volumeMounts=MOUNTS), volumes=VOLUMES))
        status = await until_pod(cluster, lambda status: "waiting" in status["state"])
        assert status["state"]["waiting"]["message"] == "cannot make the emptyDir volumes: Not a directory"
        (tmp_path / "pods").unlink()
        await until_pod(cluster, lambda status: "waiting" not in status["state"])


@pytest.mark.parametrize(
    ("named", "fields"),
    [
        ("hostPath", {"volumes": [{"name": "cache", "hostPath": {"path": "/"}}]}),
        ("size", {"volumes": [{"name": "cache", "emptyDir": {"size": "1Gi"}}]}),
        ("no volume cache", {"volumes": []}),
        ("subPath", {"mount": {"subPath": "x"}}),
        ("absolute path", {"mount": {"mountPath": "cache"}}),
        ("below /", {"mount": {"mountPath": "/"}}),
    ],
)
async def test_unsupported_volume_is_refused_by_name(tmp_path: Path, named: str, fields: Manifest) -> None:
    mount = {**MOUNTS[0], **fields.get("mount", {})}
    child = deployment(container("true", volumeMounts=[mount]), volumes=fields.get("volumes", VOLUMES))
    async with running(tmp_path) as cluster:
        with pytest.raises(ChildRefused, match=named):
            await cluster.apply(MODEL, child)
        assert cluster.index.list("Pod") == []
