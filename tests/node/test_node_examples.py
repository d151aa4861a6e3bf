"""The programs of docs/reference/store-and-bus.md, run as they are printed there."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from node.node_processes import Agent

from headrace.environment import AGENT_SOCKET, AGENT_SOCKET_NAME

PAGE = Path(__file__).parents[2] / "docs/reference/store-and-bus.md"
LINES = 20
SECONDS = 60


def test_examples_when_run_then_receiver_reads_the_array(short_path: Path) -> None:
    receiving, sending = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert max(len(receiving.splitlines()), len(sending.splitlines())) <= LINES
    with Agent(short_path, "--store-bytes", "64Mi") as agent:
        directory = agent.admin.open_volume("v", namespace="team-a", pod="p", uid="u")
        variables = {**os.environ, AGENT_SOCKET: str(directory / AGENT_SOCKET_NAME)}
        command = (sys.executable, "-c")
        with subprocess.Popen([*command, receiving], env=variables, stdout=subprocess.PIPE, text=True) as receiver:
            assert receiver.stdout is not None
            endpoint = receiver.stdout.readline().strip()
            subprocess.run([*command, sending, endpoint], env=variables, check=True, timeout=SECONDS)
            assert receiver.communicate(timeout=SECONDS)[0] == "500000.0\n"
        assert receiver.returncode == 0
