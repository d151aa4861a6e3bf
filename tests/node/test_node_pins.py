"""Pinning by the operator's list, in a real agent: what is pinned, and what is removed."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from node.node_processes import START_SECONDS, Agent
from node.test_node_agent import opened

from headrace.agent.admin import HeldObject
from headrace.agent.kept import encode
from headrace.store.client import Draft, Store
from headrace.store.keys import ObjectClass

NAMES = ("aa" * 32, "bb" * 32)
SIZE = 1 << 20


def held(agent: Agent) -> dict[str, bool]:
    """Return by key whether an object is pinned."""
    found: list[HeldObject] = list(agent.admin.objects())
    return {each.key: each.pinned for each in found}


def put(store: Store, name: str) -> str:
    item = store.obtain(ObjectClass.WEIGHTS, SIZE, name)
    assert isinstance(item, Draft)
    with item as draft, draft.seal() as stored:
        return stored.key


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + START_SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_weights_when_listed_then_pinned_and_then_removed(short_path: Path) -> None:
    """An object of the same name in another namespace, one of another name, and one without a name are not affected."""
    file = short_path / "objects"
    with (
        Agent(short_path, "--kept-objects", str(file)) as agent,
        opened(agent, "team-a") as a,
        opened(agent, "team-b") as b,
    ):
        listed, unlisted, other = put(a, NAMES[0]), put(a, NAMES[1]), put(b, NAMES[0])
        with a.put(ObjectClass.WEIGHTS, b"x" * SIZE) as unnamed:
            a.pin(unnamed.key)
            plain = unnamed.key
        file.write_text(encode({("team-a", NAMES[0])}))
        until(lambda: held(agent)[listed])
        assert held(agent) == {listed: True, unlisted: False, other: False, plain: True}
        file.write_text("")
        until(lambda: listed not in held(agent))
        assert held(agent) == {unlisted: False, other: False, plain: True}


def test_weights_when_pinned_then_others_are_evicted_instead(short_path: Path) -> None:
    """The pinned ones are the least recently used, and would be the first."""
    file = short_path / "objects"
    limits = ("--store-bytes", "8Mi", "--tenant-bytes", "4Mi")
    with Agent(short_path, *limits, "--kept-objects", str(file)) as agent, opened(agent, "team-a") as a:
        listed = put(a, NAMES[0])
        file.write_text(encode({("team-a", NAMES[0])}))
        until(lambda: held(agent)[listed])
        for number in range(8):
            put(a, f"{number:064x}")
        assert listed in held(agent)
        assert len(held(agent)) == 4
