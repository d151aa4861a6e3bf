"""The layout that keeps components apart and the standard library in sight."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("folder", ["operator", "gateway", "node", "aggregator", "runtimes", "runtimes/llm"])
def test_container_folders_when_looked_at_then_none_is_a_package(folder: str) -> None:
    assert not (ROOT / folder / "__init__.py").exists()


def test_standard_operator_when_imported_from_the_root_then_it_is_not_shadowed() -> None:
    code = "import operator; assert operator.itemgetter"
    subprocess.run([sys.executable, "-S", "-c", code], cwd=ROOT, check=True)


def test_gateway_when_imported_then_torch_is_not() -> None:
    code = "import sys, headrace_gateway.main; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_command_line_when_imported_then_nothing_heavy_is() -> None:
    heavy = {"pydantic", "torch", "nats", "uvicorn", "starlette", "asyncio", "prometheus_client"}
    code = f"import sys, headrace.cli.main, headrace.cli.commands.get; print(*({heavy} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True)
    assert done.stdout.strip() == ""
