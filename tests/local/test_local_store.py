"""What survives a crash."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from disks import fill, small_disk

from headrace.errors import AccessDenied, CannotStart, NoSpace
from headrace.local import store as store_module
from headrace.local.store import Store
from headrace.reconcile.world import ObjectKey

WRITER = """
import json, sys, pathlib
from headrace.local.store import Store
store = Store(pathlib.Path(sys.argv[1]))
store.put({"kind": "ConfigMap", "metadata": {"namespace": "default", "name": "a"}, "data": {"x": "1"}})
print("acknowledged", flush=True)
sys.stdin.read()
"""


def config(name: str, x: str, namespace: str = "default") -> dict[str, Any]:
    return {"kind": "ConfigMap", "metadata": {"namespace": namespace, "name": name}, "data": {"x": x}}


def event(name: str, last: str, namespace: str = "default") -> dict[str, Any]:
    return {"kind": "Event", "metadata": {"namespace": namespace, "name": name}, "lastTimestamp": last}


def test_store_when_opened_again_has_every_object_as_last_put(tmp_path: Path) -> None:
    store = Store(tmp_path / "state.sqlite")
    store.put(config("a", "1"))
    store.put(config("b", "1"))
    store.put_status(config("a", "2"))
    store.remove(ObjectKey("ConfigMap", "default", "b"))
    store.close()
    assert Store(tmp_path / "state.sqlite").objects() == [config("a", "2")]


def test_store_when_killed_has_all_acknowledged_writes(tmp_path: Path) -> None:
    path = tmp_path / "state.sqlite"
    command = [sys.executable, "-c", WRITER, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == b"acknowledged\n"
        writer.send_signal(signal.SIGKILL)
    assert Store(path).objects() == [config("a", "1")]


def test_store_when_events_are_too_many_drops_the_oldest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "MAX_EVENTS", 2)
    store = Store(tmp_path / "state.sqlite")
    forgotten = [store.put_event(event(name, f"2026-01-0{day}")) for day, name in enumerate("abc", 1)]
    assert forgotten == [[], [], [ObjectKey("Event", "default", "a")]]
    assert [found["metadata"]["name"] for found in store.events()] == ["b", "c"]


def test_store_keeps_events_of_one_name_in_two_namespaces(tmp_path: Path) -> None:
    store = Store(tmp_path / "state.sqlite")
    store.put_event(event("a", "2026-01-01", "one"))
    store.put_event(event("a", "2026-01-02", "two"))
    assert [found["metadata"]["namespace"] for found in store.events()] == ["one", "two"]


def test_store_when_the_disk_is_full_then_says_so_and_heals(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 1024):
        store = Store(tmp_path / "disk/state.sqlite")
        store.put(config("a", "1"))
        filler = fill(tmp_path / "disk")
        writes = [store.put, store.put_status]
        for write in writes:
            with pytest.raises(NoSpace, match=r"cannot use .*/disk/state\.sqlite: No space left on device"):
                write(config("a", "x" * 100_000))
        assert store.objects() == [config("a", "1")]
        filler.unlink()
        store.put(config("a", "2"))
        assert store.objects() == [config("a", "2")]
        store.close()


@pytest.mark.parametrize("room", [0, 20])
def test_store_when_it_is_made_on_a_full_disk_then_says_so(tmp_path: Path, room: int) -> None:
    """However SQLite calls it: it finds no room for the file, or for the index of its log."""
    with small_disk(tmp_path / "disk", 64):
        filler = fill(tmp_path / "disk")
        os.truncate(filler, filler.stat().st_size - room * 1024)
        with pytest.raises(NoSpace):
            Store(tmp_path / "disk/state.sqlite")


def test_store_when_the_disk_is_read_only_then_says_so(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 1024):
        Store(tmp_path / "disk/state.sqlite").close()
        subprocess.run(["mount", "-o", "remount,ro", str(tmp_path / "disk")], check=True)
        with pytest.raises(AccessDenied, match=r"state\.sqlite"):
            Store(tmp_path / "disk/state.sqlite").put(config("a", "1"))


def test_store_when_file_is_no_database_fails_and_names_it(tmp_path: Path) -> None:
    (tmp_path / "state.sqlite").write_text("hello " * 1000)
    with pytest.raises(CannotStart, match=r"state\.sqlite"):
        Store(tmp_path / "state.sqlite")
