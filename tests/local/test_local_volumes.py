"""emptyDir volumes in local mode."""

from __future__ import annotations

import asyncio
import os
import sys
import traceback
from collections.abc import Coroutine
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from local.local_cluster import (
    MODEL,
    SLEEPER,
    container,
    deployment,
    eventually,
    model,
    running,
    until,
    until_file,
    until_pod,
)

from headrace.control.world import ChildRefused
from headrace.local.volumes import make_volumes, replace_mount_paths
from headrace.reconcile.world import Manifest

NOBODY = 65534
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


def test_path_of_headrace_below_a_mount_path_is_kept(tmp_path: Path) -> None:
    """The home may be in /tmp, and Python in a directory below a mount path."""
    home, python = tmp_path / "$x" / "home", Path(sys.prefix)
    mounts = [{"name": "cache", "mountPath": str(path)} for path in (tmp_path, python.parent)]
    spec = {"volumes": VOLUMES, "containers": [{"volumeMounts": mounts}]}
    made = make_volumes(spec, tmp_path / "pods", home)
    text = f"{python}/bin/python --model {tmp_path}/$$x/home/models/x --cache {tmp_path}/cache {tmp_path}/$$x/homes"
    cache = tmp_path / "pods" / "cache"
    kept = f"{python}/bin/python --model {tmp_path}/$$x/home/models/x --cache {cache}/cache {cache}/$$x/homes"
    assert replace_mount_paths(text, made) == kept


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


@pytest.mark.parametrize("mode", [0o500, 0o000])
def test_read_only_directory_of_a_volume_is_removed(mode: int) -> None:
    """By a start, when a killed instance left it, and with its pod."""

    async def start() -> None:
        deep = Path("pods/default.smol-1-a.volumes/cache/deep")
        deep.mkdir(parents=True)
        (deep / "file").touch()
        (deep / "link").symlink_to(".")
        for directory in (deep, deep.parent):
            directory.chmod(mode)
        async with running(Path()) as cluster:
            assert list(Path("pods").iterdir()) == []
            script = f"mkdir -p /cache/deep/er; chmod 0{mode:o} /cache/deep; {SLEEPER}"
            child = deployment(container(script, volumeMounts=MOUNTS), volumes=VOLUMES)
            await cluster.apply(MODEL, child)
            await eventually(lambda: any(path.stat().st_mode & 0o777 == mode for path in Path("pods").glob("*/*/deep")))
            await cluster.delete(MODEL, child.key)
            await until(cluster, "Pod", lambda pods: not pods)
            assert list(Path("pods").iterdir()) == []

    unprivileged(start())


def test_files_that_cannot_be_removed_do_not_stop_a_start() -> None:
    async def start() -> None:
        Path("pods/left/deep").mkdir(parents=True)
        Path("pods/left.log").touch()
        Path("pods").chmod(0o500)
        async with running(Path()) as cluster:
            cluster.apply_object(model())
            Path("pods").chmod(0o700)

    unprivileged(start())


def unprivileged(work: Coroutine[Any, Any, None]) -> None:
    """Do the work in an empty directory, in a process that file modes bind: they do not bind root.

    The directory is not `tmp_path`, whose parents are of root alone.
    """
    with TemporaryDirectory() as directory:
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                if os.geteuid() == 0:
                    os.chown(directory, NOBODY, NOBODY)
                    os.setuid(NOBODY)
                os.chdir(directory)
                asyncio.run(work)
                code = 0
            except BaseException:  # noqa: BLE001 - it is printed; nothing else of the tests may run in this process
                traceback.print_exc()
            finally:
                os._exit(code)
        work.close()
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


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
        ("mountPath must be", {"mount": {"mountPath": None}}),
        (r"volumes\[0\]\.name must be a DNS label", {"volumes": [{"name": "../../x", "emptyDir": {}}]}),
        (r"volumes\[0\]\.name must be a DNS label", {"volumes": [{"emptyDir": {}}]}),
        (r"volumes\[0\]\.emptyDir is required", {"volumes": [{"name": "cache"}]}),
        (r"volumes\[0\]\.emptyDir is required", {"volumes": [{"name": "cache", "emptyDir": None}]}),
        (r"volumes\[1\]\.name: cache is used twice", {"volumes": [VOLUMES[0], VOLUMES[0]]}),
        (r"volumeMounts\[1\]\.mountPath: /cache is used twice", {"mounts": [{"name": "shm", "mountPath": "/cache/"}]}),
    ],
)
async def test_unsupported_volume_is_refused_by_name(tmp_path: Path, named: str, fields: Manifest) -> None:
    mount = {**MOUNTS[0], **fields.get("mount", {})}
    mounts = [mount, *fields.get("mounts", [])]
    child = deployment(container("true", volumeMounts=mounts), volumes=fields.get("volumes", VOLUMES))
    async with running(tmp_path) as cluster:
        with pytest.raises(ChildRefused, match=named):
            await cluster.apply(MODEL, child)
        assert cluster.index.list("Pod") == []
