"""What comes in from NATS and is no message is told once, by the fields that are wrong, and ignored."""

from __future__ import annotations

import json
from typing import Any, cast

import pytest
from nats.aio.client import Client
from nats.aio.msg import Msg

from headrace.events.decoder import Decoder
from headrace.events.messages import ReplicaReport

REPORT: dict[str, Any] = {
    "pod": "p-1",
    "revision": "r1",
    "host": "10.0.0.1",
    "port": 8000,
    "started": 1.0,
    "sequence": 1,
    "state": "Ready",
}
SUBJECT = "headrace.replica.n.m.p-1"


def said(**changed: Any) -> Msg:
    return Msg(cast(Client, None), subject=SUBJECT, data=json.dumps({**REPORT, **changed}).encode())


def test_report_when_it_has_what_is_needed_then_it_is_returned() -> None:
    report = Decoder().decode(ReplicaReport, said(later="unknown"))
    assert report is not None
    assert (report.pod, report.capacity) == ("p-1", 1)


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"percent": 41.5, "capacity": 0}, "not a valid ReplicaReport: capacity, percent"),
        ({"stage": "a\n\ndata: forged"}, "not a valid ReplicaReport: stage"),
        ({"state": "Fine"}, "not a valid ReplicaReport: state"),
        ({"pod": "p-2"}, "it names another pod than its subject"),
    ],
)
def test_report_when_it_is_wrong_then_one_line_says_what(
    changed: dict[str, Any], told: str, caplog: pytest.LogCaptureFixture
) -> None:
    decoder = Decoder()
    for _ in range(3):
        assert decoder.decode(ReplicaReport, said(**changed)) is None
    assert [record.getMessage() for record in caplog.records] == [f"ignored a message on {SUBJECT}: {told}"]


def test_message_when_it_is_no_json_then_it_says_so(caplog: pytest.LogCaptureFixture) -> None:
    assert Decoder().decode(ReplicaReport, Msg(cast(Client, None), subject=SUBJECT, data=b"\x00")) is None
    assert "no JSON object" in caplog.text
