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
        admissions.judge_silence(float("-inf"))
        assert replica.suspect
        admissions.heard("default", "m", said(2))
        assert not replica.suspect
