"""The programs of docs/reference/store-and-bus.md, run as they are printed there."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from node.node_processes import Agent

from headrace.environment import AGENT_SOCKET, AGENT_SOCKET_NAME

PAGE = Path(__file__).parents[2] / "docs/reference/store-and-bus.md"
LINES = 20
SECONDS = 60


@pytest.mark.parametrize("has_agent", [True, False])
def test_examples_when_run_then_receiver_reads_the_array(short_path: Path, *, has_agent: bool) -> None:
    receiving, sending = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert max(len(receiving.splitlines()), len(sending.splitlines())) <= LINES
    variables = {name: value for name, value in os.environ.items() if name != AGENT_SOCKET}
    with contextlib.ExitStack() as stack:
        if has_agent:
            agent = stack.enter_context(Agent(short_path, "--store-bytes", "64Mi"))
            directory = agent.admin.open_volume("v", namespace="team-a", pod="p", uid="u")
            variables[AGENT_SOCKET] = str(directory / AGENT_SOCKET_NAME)
        command = [sys.executable, "-c"]
        with subprocess.Popen([*command, receiving], env=variables, stdout=subprocess.PIPE, text=True) as receiver:
            assert receiver.stdout is not None
            address = receiver.stdout.readline().strip()
            sent = subprocess.run(
                [*command, sending, address], env=variables, check=True, timeout=SECONDS, capture_output=True, text=True
            )
            assert receiver.communicate(timeout=SECONDS)[0] == "500000.0\n"
        assert receiver.returncode == 0
    assert sent.stderr.startswith("store" if has_agent else "tcp this process has no node agent")
