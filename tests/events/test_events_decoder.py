"""What comes in from NATS and is no message is told once, by the fields that are wrong, and ignored."""

from __future__ import annotations

import json
from typing import Any, cast

import pytest
from nats.aio.client import Client
from nats.aio.msg import Msg

from headrace.events.decoder import Decoder
from headrace.events.messages import MAX_EXTRA_FIELDS, Load, ReplicaReport

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


def test_load_when_it_has_engine_specific_fields_then_kept() -> None:
    report = Decoder().decode(ReplicaReport, said(load={"queued": 2, "uncomputed_tokens": 512, "hit_ratio": 0.25}))
    assert report is not None
    assert (report.load.queued, report.load.extra) == (2, {"uncomputed_tokens": 512, "hit_ratio": 0.25})
    assert ReplicaReport.decode(report.encode()) == report
    assert Load(queued=2).with_extra({"hit_ratio": 0.25}).encode().endswith(b'"hit_ratio":0.25}')


HOSTILE = {
    "text": "x" * 1000,
    "object": {"a": 1},
    "truth": True,
    "none": None,
    "huge": 10**400,
    "n" * 65: 1,
    "a b": 1,
    "Upper": 1,
    "line\n": 1,
    "": 1,
    "__class__": 1,
}


def test_load_when_a_field_is_invalid_then_only_it_is_dropped() -> None:
    report = Decoder().decode(
        ReplicaReport, said(load={**HOSTILE, "running": 3, "fine": 1, "extra": 4, "model_dump": 5})
    )
    assert report is not None
    assert report.load.running == 3
    assert report.load.extra == {"fine": 1, "extra": 4, "model_dump": 5}
    assert ReplicaReport.decode(report.encode()) == report


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_load_when_a_number_is_not_finite_then_it_is_ignored(number: str) -> None:
    raw = said(load={"odd": "here", "fine": 1}).data.replace(b'"here"', number.encode())
    report = Decoder().decode(ReplicaReport, Msg(cast(Client, None), subject=SUBJECT, data=raw))
    assert report is not None
    assert report.load.extra == {"fine": 1}


def test_load_when_it_has_too_many_fields_then_first_are_kept() -> None:
    report = Decoder().decode(ReplicaReport, said(load={f"field_{number}": number for number in range(5000)}))
    assert report is not None
    assert report.load.extra == {f"field_{number}": number for number in range(MAX_EXTRA_FIELDS)}
    assert len(report.encode()) < 2000
