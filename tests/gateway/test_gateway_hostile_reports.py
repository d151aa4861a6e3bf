"""A replica's report comes from a tenant's process: neither what it says nor its silence must hurt the gateway."""

from __future__ import annotations

import asyncio

import pytest
from gateway.gateway_inside import NETWORKS
from pydantic import ValidationError

from headrace.events.messages import Announcement, ReplicaReport, ReplicaState
from headrace_gateway import claims
from headrace_gateway.admission import Admissions
from headrace_gateway.networks import PRIVATE, PodNetworks, canonical
from headrace_gateway.outbox import Outbox
from headrace_gateway.replica import Replica
from headrace_gateway.table import Table
from headrace_gateway.upstream.connection import ConnectFailed
from headrace_gateway.upstream.pool import Pool


def said(sequence: int) -> Announcement:
    return Announcement(
        secret="s" * 43,
        pod="p",
        revision="r",
        host="127.0.0.1",
        port=1,
        started=1.0,
        sequence=sequence,
        state=ReplicaState.LOADING,
    )


@pytest.mark.parametrize("host", ["a" * 64, "a..b", "\u00e4" * 60])
async def test_connection_when_the_reported_host_is_none_then_it_fails_like_any_other(host: str) -> None:
    with pytest.raises(ConnectFailed):
        await Pool(host, 8000).connect()


@pytest.mark.parametrize("number", ["NaN", "Infinity"])
def test_report_when_a_number_is_none_then_it_is_refused_for_the_disk_could_not_hold_it(number: str) -> None:
    report = said(1)
    with pytest.raises(ValidationError):
        Announcement.decode(report.encode().replace(b'"started":1.0', f'"started":{number}'.encode()))


def test_report_when_it_is_shown_then_its_secret_is_not() -> None:
    report = said(1)
    assert report.secret not in f"{report!r} {report}"


def knowing(table: Table, tasks: asyncio.TaskGroup) -> Admissions:
    return Admissions(table, Outbox("g"), tasks, NETWORKS)


async def test_replica_when_it_lost_a_request_then_it_is_suspect_until_it_speaks_again() -> None:
    table = Table("default", Outbox("g").demand)
    replica = Replica(said(1), asyncio.get_running_loop().time())
    table.add_replica(table.model("default", "m"), replica)
    async with asyncio.TaskGroup() as tasks:
        admissions = knowing(table, tasks)
        replica.suspect = True
        admissions.liveness.check()
        assert replica.suspect
        admissions.on_report("default", "m", said(2))
        assert not replica.suspect


def claim(host: str = "10.0.0.1", started: float = 2.0, **changes: object) -> Announcement:
    return said(1).model_copy(update={"pod": "liar", "host": host, "started": started, **changes})


def victim(table: Table, host: str = "10.0.0.1") -> Replica:
    replica = Replica(said(1).model_copy(update={"host": host}), asyncio.get_running_loop().time())
    replica.admitted = replica.proven = True
    table.add_replica(table.model("team-a", "m"), replica)
    return replica


@pytest.mark.parametrize(
    ("real", "claimed"),
    [("10.0.0.1", "10.0.0.1"), ("10.0.0.1", "::ffff:10.0.0.1"), ("fd00::1", "FD00:0:0::1")],
    ids=["the same", "IPv4 in IPv6", "another way to write it"],
)
async def test_address_when_another_tenant_reports_it_then_its_holder_keeps_it(real: str, claimed: str) -> None:
    table = Table("default", Outbox("g").demand)
    held = victim(table, real)
    async with asyncio.TaskGroup() as tasks:
        knowing(table, tasks).on_report("team-b", "m", claim(claimed))
    (unproven,) = table.models["team-b", "m"].replicas.values()
    assert not unproven.proven
    assert held.admitted
    assert table.models["team-a", "m"].replicas == {"p": held}
    assert table.holder(unproven.report) == (table.models["team-a", "m"], held)


async def test_address_when_another_replica_proves_it_then_it_is_that_ones() -> None:
    table = Table("default", Outbox("g").demand)
    held = victim(table)
    async with asyncio.TaskGroup() as tasks:
        knowing(table, tasks).on_report("team-b", "m", claim(started=0.5))
    model = table.models["team-b", "m"]
    table.prove(model, model.replicas["liar"])
    assert not held.admitted
    assert ("team-a", "m") not in table.models


@pytest.mark.parametrize(("reported", "believed"), [(0.5, False), (2.0, True)], ids=["an old status", "a newer pod"])
async def test_address_when_the_loop_reports_it_of_two_pods_then_the_newer_one_has_it(
    reported: float, *, believed: bool
) -> None:
    table = Table("default", Outbox("g").demand)
    brought = ReplicaReport.model_validate(said(1).model_dump() | {"host": "10.0.0.1"})
    async with asyncio.TaskGroup() as tasks:
        admissions = knowing(table, tasks)
        admissions.on_report("team-a", "m", brought)
        admissions.on_report("team-b", "m", brought.model_copy(update={"pod": "q", "started": reported}))
    assert (("team-b", "m") in table.models) is believed
    assert (("team-a", "m") in table.models) is not believed


async def test_pod_when_the_loop_reports_for_it_then_nobody_else_does() -> None:
    table = Table("default", Outbox("g").demand)
    brought = ReplicaReport.model_validate(said(1).model_dump())
    async with asyncio.TaskGroup() as tasks:
        admissions = knowing(table, tasks)
        admissions.on_report("team-a", "m", said(1))
        admissions.on_report("team-a", "m", brought)  # older, but of somebody who knows
        (known,) = table.models["team-a", "m"].replicas.values()
        admissions.on_report("team-a", "m", said(2))
    assert table.models["team-a", "m"].replicas == {"p": known}
    assert known.secret is None


@pytest.mark.parametrize(
    "report", [claim(started=1e12), claim("localhost"), claim("0.0.0.0"), claim("169.254.169.254"), claim("10.96.0.1")]
)
async def test_report_when_its_start_is_to_come_or_its_address_is_no_pods_then_it_is_ignored(
    report: Announcement,
) -> None:
    table = Table("default", Outbox("g").demand)
    async with asyncio.TaskGroup() as tasks:
        knowing(table, tasks).on_report("team-b", "m", report)
    assert not table.models


async def test_report_when_it_is_ignored_then_the_log_says_so_once_and_not_for_thousands(
    caplog: pytest.LogCaptureFixture,
) -> None:
    table = Table("default", Outbox("g").demand)
    async with asyncio.TaskGroup() as tasks:
        admissions = knowing(table, tasks)
        for number in range(1000):
            admissions.on_report("team-b", "m", claim("169.254.169.254", pod=f"p-{number // 2}"))
        admissions.on_report("team-a", "m", claim("localhost"))
    lines = [record.getMessage() for record in caplog.records]
    assert lines[0].startswith("ignored team-b/p-0: it reports the address 169.254.169.254: it is the metadata service")
    assert lines[-2:] == [
        "more reports of team-b are ignored without a line here",
        "ignored team-a/liar: its host 'localhost' is not an IP address",
    ]
    assert len(lines) == claims.MAX_LOGGED_LINES + 2


async def test_report_when_ignored_for_long_then_the_log_says_it_again(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = claims.Claims(Table("default", Outbox("g").demand))
    told.ignore("a", "p", "x")
    told.ignore("a", "p", "x")
    assert len(caplog.records) == 1
    monkeypatch.setattr(claims, "LOG_AGAIN_SECONDS", -1.0)
    told.ignore("a", "p", "x")
    assert len(caplog.records) == 2


@pytest.mark.parametrize(
    ("address", "networks", "allowed"),
    [
        ("10.1.2.3", PRIVATE, True),
        ("100.64.0.9", PRIVATE, True),
        ("fd12::9", PRIVATE, True),
        ("10.96.0.1", PRIVATE, False),
        ("127.0.0.1", PRIVATE, False),
        ("::1", PRIVATE, False),
        ("::ffff:127.0.0.1", PRIVATE, False),
        ("169.254.169.254", PRIVATE, False),
        ("fe80::1", PRIVATE, False),
        ("169.254.170.2", PRIVATE, False),
        ("fd00:ec2::254", PRIVATE, False),
        ("fd00:ec2::23", PRIVATE, False),
        ("fd20:ce::254", PRIVATE, False),
        ("100.100.100.200", PRIVATE, False),
        ("::ffff:100.100.100.200", PRIVATE, False),
        ("8.8.8.8", PRIVATE, False),
        ("224.0.0.1", PRIVATE, False),
        ("8.8.8.8", ["0.0.0.0/0", "::/0"], True),
        ("127.0.0.1", ["0.0.0.0/0", "::/0"], False),
        ("::1", ["0.0.0.0/0", "::/0"], False),
        ("169.254.169.254", ["0.0.0.0/0", "::/0"], False),
        ("168.63.129.16", ["0.0.0.0/0", "::/0"], False),
        ("fe80::1", ["0.0.0.0/0", "::/0"], False),
        ("fd00:ec2::254", ["fd00:ec2::254/128"], False),
        ("ff02::1", ["0.0.0.0/0", "::/0"], False),
        ("0.0.0.0", ["0.0.0.0/0", "::/0"], False),
        ("127.3.2.1", ["127.0.0.0/8"], True),
    ],
)
def test_address_when_it_is_in_no_pod_network_then_it_is_refused(
    address: str, networks: list[str], *, allowed: bool
) -> None:
    found = canonical(address)
    assert found is not None
    assert (not PodNetworks.of(networks, "10.96.0.1").refusal(found)) is allowed


# -- bounds


def claims_of(number: int, state: ReplicaState = ReplicaState.LOADING) -> list[Announcement]:
    return [claim(f"10.0.1.{index}", pod=f"liar-{index}", state=state) for index in range(number)]


async def test_claims_when_more_than_the_bound_are_unproven_then_the_rest_waits_for_room(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(claims, "MAX_UNPROVEN", 3)
    table = Table("default", Outbox("g").demand)
    async with asyncio.TaskGroup() as tasks:
        admissions = knowing(table, tasks)
        for report in claims_of(5):
            admissions.on_report("team-b", "m", report)
        admissions.on_report("team-a", "m", claim("10.0.1.0", pod="real"))
    model = table.models["team-b", "m"]
    assert sorted(model.replicas) == ["liar-0", "liar-1", "liar-2"]
    assert "real" in table.models["team-a", "m"].replicas
    table.prove(model, model.replicas["liar-1"])
    async with asyncio.TaskGroup() as tasks:
        knowing(table, tasks).on_report("team-b", "m", claims_of(5)[4])
    assert sorted(model.replicas) == ["liar-0", "liar-1", "liar-2", "liar-4"]


async def test_claim_when_it_says_ready_and_there_is_no_room_then_one_that_only_loads_is_forgotten(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(claims, "MAX_UNPROVEN", 3)
    table = Table("default", Outbox("g").demand)
    async with asyncio.TaskGroup() as tasks:
        admissions = knowing(table, tasks)
        for report in claims_of(3):
            admissions.on_report("team-b", "m", report)
        ready = claim("127.0.0.1", pod="ready", state=ReplicaState.READY)
        admissions.on_report("team-b", "m", ready)
    assert sorted(table.models["team-b", "m"].replicas) == ["liar-1", "liar-2", "ready"]


async def test_probes_when_they_fail_without_end_then_they_are_few() -> None:
    asked = 0

    async def stranger(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal asked
        asked += 1
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
        writer.close()

    table = Table("default", Outbox("g").demand)
    server = await asyncio.start_server(stranger, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server, asyncio.TaskGroup() as tasks:
        admissions = knowing(table, tasks)
        for number in range(300):
            report = claim("127.0.0.1", pod=f"liar-{number}", port=port, state=ReplicaState.READY)
            admissions.on_report("team-b", "m", report)
            if number % 50 == 0:
                await asyncio.sleep(0.05)  # for probes to end: who is probed is not forgotten
    replicas = table.models["team-b", "m"].replicas.values()
    assert len(replicas) <= claims.MAX_UNPROVEN
    assert not any(replica.proven or replica.admitted for replica in replicas)
    assert claims.PROBES_AT_ONCE < asked <= claims.FAILURE_BURST + 10 * claims.FAILURES_PER_SECOND
