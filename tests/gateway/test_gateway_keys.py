"""The door stays shut when keys are lost, whatever loses them; only revoking the last one opens it."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from gateway.gateway_client import CHAT, get, request, send
from gateway.gateway_inside import inside
from gateway.gateway_world import World, until

from headrace.events import subjects
from headrace.routes import KeyGrant
from headrace.routes.api_keys import entry_name, entry_of
from headrace_gateway.buckets import MISSING_SECONDS, BucketMirror
from headrace_gateway.disk import DiskCopy
from headrace_gateway.errors import InvalidApiKey
from headrace_gateway.table import Table

GRANT = KeyGrant(namespace="default", name="k").encode()
KEY = b"hr_default_key"
ENTRY = str(entry_of(KEY))


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
    keys.set_key(ENTRY, b"{")
    assert not is_open(keys)
    assert not is_open(keys, b"Bearer " + KEY)
    keys.set_key(ENTRY, GRANT)
    assert is_open(keys, b"Bearer " + KEY)
    keys.set_key(ENTRY, b"{")
    assert not is_open(keys, b"Bearer " + KEY)


async def test_door_when_the_last_key_is_deleted_then_it_is_open() -> None:
    keys = table()
    keys.set_key(ENTRY, GRANT)
    keys.set_key(ENTRY, None)
    assert is_open(keys)


async def test_door_when_the_bucket_is_emptied_then_it_is_shut_and_stays_so_until_the_key_is_deleted() -> None:
    now = 0.0
    keys = table()
    keys.set_key(ENTRY, GRANT)
    mirror = BucketMirror("b", keys.set_key, keys.grants, lose=keys.lose_key, clock=lambda: now)
    mirror._drop_missing({ENTRY})
    assert is_open(keys, b"Bearer " + KEY)
    now = MISSING_SECONDS
    mirror._drop_missing({ENTRY})
    assert not is_open(keys, b"Bearer " + KEY)
    assert not is_open(keys)
    keys.set_key(ENTRY, None)
    assert is_open(keys)


@pytest.mark.parametrize("lost", [False, True], ids=["unreadable", "lost"])
async def test_door_when_the_gateway_is_restarted_then_what_shut_it_shuts_it_still(
    tmp_path: Path, *, lost: bool
) -> None:
    disk, keys = DiskCopy(tmp_path), table()
    disk.load(keys)
    if lost:
        keys.set_key(ENTRY, GRANT)
        keys.lose_key(ENTRY)
    else:
        keys.set_key(ENTRY, b"{")
    writing = asyncio.create_task(disk.run(keys))
    await until(lambda: ENTRY in _text(tmp_path / "gateway.json"), "the copy")
    writing.cancel()
    again = table()
    DiskCopy(tmp_path).load(again)
    assert not is_open(again)


async def test_door_when_a_key_in_the_bucket_cannot_be_read_then_401_and_open_when_it_is_deleted(world: World) -> None:
    await world.loop.route()
    await world.gateway_knows_route()
    bucket = world.loop._buckets[subjects.KEYS_BUCKET]
    for value, status in ((b"{", 401), (None, 200)):
        await (bucket.put(ENTRY, value) if value is not None else bucket.delete(ENTRY))
        async with asyncio.timeout(10):
            while (await get(world.port, "/v1/models")).status != status:
                await asyncio.sleep(0.005)


@pytest.mark.parametrize(("method", "path"), [("GET", "/v1/models"), ("GET", "/v1/models/echo"), ("POST", CHAT)])
async def test_request_when_the_table_is_not_known_yet_then_it_waits_for_it(method: str, path: str) -> None:
    async with inside(loaded=False) as world:
        body = {"model": "echo"} if method == "POST" else None
        raw = request(method, path, body, {"authorization": f"Bearer {KEY.decode()}"})
        asking = asyncio.create_task(send(world.port, raw))
        waiting = world.table.loaded._waiters
        await until(lambda: bool(waiting), "it waits")
        await world.replica(world.route())
        world.key(KEY.decode())
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
    keys.set_key(ENTRY, GRANT)
    with pytest.raises(InvalidApiKey, match=r"ask its issuer; `headrace keys list` shows"):
        keys.authenticate(b"Bearer hr_default_wrong")


async def test_key_when_its_digest_is_copied_to_another_namespace_then_it_opens_its_own_still() -> None:
    """The copy is heard of before and after: no order lets it stand in for the key, or for its revocation."""
    copy = KeyGrant(namespace="team-a", name="copy").encode()
    stolen = entry_name("team-a", ENTRY.partition(".")[2])
    keys = table()
    keys.set_key(stolen, copy)
    assert not is_open(keys, b"Bearer " + KEY)
    keys.set_key(ENTRY, GRANT)
    keys.set_key(stolen, copy)
    assert keys.authenticate(b"Bearer " + KEY).namespace == "default"
    keys.set_key(ENTRY, None)
    assert not is_open(keys, b"Bearer " + KEY)


async def test_key_when_its_entry_names_another_namespace_than_it_opens_then_it_opens_nothing() -> None:
    keys = table()
    keys.set_key(ENTRY, KeyGrant(namespace="team-b", name="k").encode())
    assert not is_open(keys, b"Bearer " + KEY)


@pytest.mark.parametrize("key", [b"hr-old-form", b"sk-elsewhere", b"hr_default", b"hr__x", b"hr_UP_x", b"hr_a.b_x"])
async def test_key_when_it_has_another_form_then_the_error_says_how_to_make_one(key: bytes) -> None:
    keys = table()
    keys.set_key(ENTRY, GRANT)
    with pytest.raises(InvalidApiKey, match=r"its form is hr_<namespace>_<random>.*`headrace keys create NAME`"):
        keys.authenticate(b"Bearer " + key)
