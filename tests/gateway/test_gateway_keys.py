"""The door stays shut when keys are lost, whatever loses them; only revoking the last one opens it."""

from __future__ import annotations

import asyncio
from hashlib import sha256
from pathlib import Path

import pytest
from gateway.gateway_client import CHAT, get, request, send
from gateway.gateway_inside import inside
from gateway.gateway_world import World, until

from headrace.events import subjects
from headrace.routes import KeyGrant
from headrace_gateway.buckets import MISSING_SECONDS, BucketMirror
from headrace_gateway.disk import DiskCopy
from headrace_gateway.errors import InvalidApiKey
from headrace_gateway.table import Table

GRANT = KeyGrant(namespace="default", name="k").encode()
DIGEST = sha256(b"key").hexdigest()


def table() -> Table:
    return Table("default", lambda _: None)


def is_open(table: Table, authorization: bytes | None = None) -> bool:
    try:
        table.authenticate(authorization)
    except InvalidApiKey:
        return False
    return True


async def test_door_when_the_only_key_cannot_be_read_then_it_is_shut_and_the_key_opens_nothing() -> None:
    keys = table()
    keys.set_key(DIGEST, b"{")
    assert not is_open(keys)
    assert not is_open(keys, b"Bearer key")
    keys.set_key(DIGEST, GRANT)
    assert is_open(keys, b"Bearer key")
    keys.set_key(DIGEST, b"{")
    assert not is_open(keys, b"Bearer key")


async def test_door_when_the_last_key_is_deleted_then_it_is_open() -> None:
    keys = table()
    keys.set_key(DIGEST, GRANT)
    keys.set_key(DIGEST, None)
    assert is_open(keys)


async def test_door_when_the_bucket_is_emptied_then_it_is_shut_and_stays_so_until_the_key_is_deleted() -> None:
    now = 0.0
    keys = table()
    keys.set_key(DIGEST, GRANT)
    mirror = BucketMirror("b", keys.set_key, keys.grants, lose=keys.lose_key, clock=lambda: now)
    mirror._drop_missing({DIGEST})
    assert is_open(keys, b"Bearer key")
    now = MISSING_SECONDS
    mirror._drop_missing({DIGEST})
    assert not is_open(keys, b"Bearer key")
    assert not is_open(keys)
    keys.set_key(DIGEST, None)
    assert is_open(keys)


@pytest.mark.parametrize("lost", [False, True], ids=["unreadable", "lost"])
async def test_door_when_the_gateway_is_restarted_then_what_shut_it_shuts_it_still(
    tmp_path: Path, *, lost: bool
) -> None:
    disk, keys = DiskCopy(tmp_path), table()
    disk.load(keys)
    if lost:
        keys.set_key(DIGEST, GRANT)
        keys.lose_key(DIGEST)
    else:
        keys.set_key(DIGEST, b"{")
    writing = asyncio.create_task(disk.run(keys))
    await until(lambda: DIGEST in _text(tmp_path / "gateway.json"), "the copy")
    writing.cancel()
    again = table()
    DiskCopy(tmp_path).load(again)
    assert not is_open(again)


async def test_door_when_a_key_in_the_bucket_cannot_be_read_then_401_and_open_when_it_is_deleted(world: World) -> None:
    await world.loop.route()
    await world.gateway_knows_route()
    bucket = world.loop._buckets[subjects.KEYS_BUCKET]
    for value, status in ((b"{", 401), (None, 200)):
        await (bucket.put(DIGEST, value) if value is not None else bucket.delete(DIGEST))
        async with asyncio.timeout(10):
            while (await get(world.port, "/v1/models")).status != status:
                await asyncio.sleep(0.005)


@pytest.mark.parametrize(("method", "path"), [("GET", "/v1/models"), ("GET", "/v1/models/echo"), ("POST", CHAT)])
async def test_request_when_the_table_is_not_known_yet_then_it_waits_for_it(method: str, path: str) -> None:
    async with inside(loaded=False) as world:
        body = {"model": "echo"} if method == "POST" else None
        raw = request(method, path, body, {"authorization": "Bearer key"})
        asking = asyncio.create_task(send(world.port, raw))
        waiting = world.table.loaded._waiters
        await until(lambda: bool(waiting), "it waits")
        await world.replica(world.route())
        world.key(DIGEST)
        world.table.loaded.set()
        assert (await asking).status == 200


@pytest.mark.parametrize("path", ["/v1/models", "/v1/models/echo"])
async def test_models_when_the_table_does_not_come_then_503(monkeypatch: pytest.MonkeyPatch, path: str) -> None:
    monkeypatch.setattr("headrace_gateway.table.LOADING_SECONDS", 0.05)
    async with inside(loaded=False) as world:
        answer = await get(world.port, path)
        assert (answer.status, answer.headers["retry-after"]) == (503, "1")


def _text(path: Path) -> str:
    return path.read_text() if path.exists() else ""


async def test_door_when_the_key_is_wrong_then_the_error_says_whom_to_ask_and_what_lists_keys() -> None:
    keys = table()
    keys.set_key(DIGEST, GRANT)
    with pytest.raises(InvalidApiKey, match=r"Ask whoever gave it to you.*; `headrace keys list` shows"):
        keys.authenticate(b"Bearer wrong")
