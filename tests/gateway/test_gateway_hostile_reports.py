"""A replica's report comes from a tenant's process: neither what it says nor its silence must hurt the gateway."""

from __future__ import annotations

import asyncio

import pytest
from pydantic import ValidationError

from headrace.events.messages import ReplicaReport, ReplicaState
from headrace_gateway.admission import Admissions
from headrace_gateway.outbox import Outbox
from headrace_gateway.replica import Replica
from headrace_gateway.table import Table
from headrace_gateway.upstream.connection import ConnectFailed
from headrace_gateway.upstream.pool import Pool


def said(sequence: int) -> ReplicaReport:
    return ReplicaReport(
        pod="p", revision="r", host="127.0.0.1", port=1, started=1.0, sequence=sequence, state=ReplicaState.LOADING
    )


@pytest.mark.parametrize("host", ["a" * 64, "a..b", "\u00e4" * 60])
async def test_connection_when_the_reported_host_is_none_then_it_fails_like_any_other(host: str) -> None:
    with pytest.raises(ConnectFailed):
        await Pool(host, 8000).connect()


@pytest.mark.parametrize("number", ["NaN", "Infinity"])
def test_report_when_a_number_is_none_then_it_is_refused_for_the_disk_could_not_hold_it(number: str) -> None:
    report = said(1)
    with pytest.raises(ValidationError):
        ReplicaReport.decode(report.encode().replace(b'"started":1.0', f'"started":{number}'.encode()))


async def test_replica_when_it_lost_a_request_then_it_is_suspect_until_it_speaks_again() -> None:
    outbox = Outbox("g")
    table = Table("default", outbox.demand)
    replica = Replica(said(1), asyncio.get_running_loop().time())
    table.add_replica(table.model("default", "m"), replica)
    async with asyncio.TaskGroup() as tasks:
        admissions = Admissions(table, outbox, tasks)
        replica.suspect = True
        admissions.judge_silence()
        assert replica.suspect
        admissions.heard("default", "m", said(2))
        assert not replica.suspect


def claim(host: str = "10.0.0.1", started: float = 2.0) -> ReplicaReport:
    return said(1).model_copy(update={"pod": "liar", "host": host, "started": started})


def victim(table: Table, host: str = "10.0.0.1") -> Replica:
    replica = Replica(said(1).model_copy(update={"host": host}), asyncio.get_running_loop().time())
    replica.admitted = True
    table.add_replica(table.model("team-a", "m"), replica)
    return replica


@pytest.mark.parametrize(
    ("real", "claimed"),
    [("10.0.0.1", "10.0.0.1"), ("10.0.0.1", "::ffff:10.0.0.1"), ("fd00::1", "FD00:0:0::1")],
    ids=["the same", "IPv4 in IPv6", "another way to write it"],
)
async def test_address_when_another_tenant_reports_it_then_its_holder_keeps_it_and_the_log_says_so_once(
    caplog: pytest.LogCaptureFixture, real: str, claimed: str
) -> None:
    table = Table("default", Outbox("g").demand)
    held = victim(table, real)
    async with asyncio.TaskGroup() as tasks:
        admissions = Admissions(table, Outbox("g"), tasks)
        for sequence in range(1, 4):
            admissions.heard("team-b", "m", claim(claimed).model_copy(update={"sequence": sequence}))
    assert held.admitted
    assert table.models["team-a", "m"].replicas == {"p": held}
    assert ("team-b", "m") not in table.models
    assert [record.getMessage() for record in caplog.records] == [
        "ignored team-b/liar: it reports the address of team-a/p"
    ]


async def test_address_when_its_holder_is_silent_then_another_tenants_replica_may_have_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("headrace_gateway.admission.SUSPECT_SECONDS", -1.0)
    table = Table("default", Outbox("g").demand)
    held = victim(table)
    async with asyncio.TaskGroup() as tasks:
        Admissions(table, Outbox("g"), tasks).heard("team-b", "m", claim(started=0.5))
    assert not held.admitted
    assert ("team-a", "m") not in table.models
    assert "liar" in table.models["team-b", "m"].replicas


async def test_address_when_nobody_could_be_heard_for_a_while_then_its_holder_was_not_silent() -> None:
    table = Table("default", Outbox("g").demand)
    held = victim(table)
    held.heard -= 1000
    async with asyncio.TaskGroup() as tasks:
        admissions = Admissions(table, Outbox("g"), tasks)
        admissions.listen_anew()
        admissions.heard("team-b", "m", claim())
    assert held.admitted
    assert ("team-b", "m") not in table.models


@pytest.mark.parametrize("report", [claim(started=1e12), claim("localhost"), claim("0.0.0.0")])
async def test_report_when_its_start_is_to_come_or_its_address_is_none_then_it_is_ignored(
    report: ReplicaReport,
) -> None:
    table = Table("default", Outbox("g").demand)
    async with asyncio.TaskGroup() as tasks:
        Admissions(table, Outbox("g"), tasks).heard("team-b", "m", report)
    assert not table.models
