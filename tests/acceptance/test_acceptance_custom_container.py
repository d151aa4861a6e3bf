"""Custom containers in local mode: rejected specs; `behaviours` tests what both worlds share."""

from __future__ import annotations

import pytest
from acceptance.acceptance_instance import Instance
from behaviours.behaviours_world import model

pytestmark = pytest.mark.acceptance


def test_engine_when_it_has_no_command_then_refused(instance: Instance) -> None:
    runtime = {"type": "Container", "container": {"image": "an-engine:1"}}
    instance.apply(model(None, "without-command", runtime=runtime))
    condition = instance.wait("without-command", "InvalidSpec", "Accepted")
    assert "spec.runtime.container.command" in condition["message"]
    instance.headrace("delete", "mdep/without-command")
