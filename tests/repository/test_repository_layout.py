"""The layout of the checkout: components are separate, no folder shadows the standard library, tests have a place."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TEST_FOLDERS = {path.parent.name for path in ROOT.glob("tests/*/*.py")}
NOT_OF_THE_CORE = {
    "acceptance": "a local instance with a real model",
    "behaviours": "what acceptance and the end-to-end suite share",
    "gateway": "headrace_gateway",
    "http_server": "headrace.http",  # `http` is a module of the standard library
    "images": "images/build.py",
    "kubernetes_operator": "headrace_operator",  # so is `operator`
    "llm_runtime": "headrace_llm",
    "models": "headrace_models",
    "moe_runtime": "headrace_moe",
    "node": "headrace_node",
    "repository": "files of the checkout",
}
"""The subject of each folder of tests that has not the name of a module of headrace."""

CONTAINERS = ["operator", "gateway", "node", "aggregator", "runtimes", "runtimes/shared", "runtimes/llm"]
LONGEST_NAME = 60
"""Characters of a test's name; its docstring has the rest."""


@pytest.mark.parametrize("folder", CONTAINERS)
def test_container_folders_when_looked_at_then_none_is_a_package(folder: str) -> None:
    assert not (ROOT / folder / "__init__.py").exists()


def test_standard_operator_when_imported_then_not_shadowed() -> None:
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


def test_test_folders_when_listed_then_named_after_their_subject() -> None:
    core = {path.stem for path in (ROOT / "src/headrace").iterdir()}
    assert TEST_FOLDERS - core == set(NOT_OF_THE_CORE)


def test_test_folders_when_imported_then_standard_library_found() -> None:
    assert not TEST_FOLDERS & set(sys.stdlib_module_names)


def test_test_files_when_listed_then_names_are_unique() -> None:
    """In a report or a search, a file's name says which it is."""
    names = Counter(path.name for folder in ("tests", "e2e") for path in ROOT.glob(f"{folder}/**/test_*.py"))
    assert [name for name, times in names.items() if times > 1] == []


def test_tests_when_listed_then_names_have_60_characters_at_most() -> None:
    files = [*ROOT.glob("tests/*/*.py"), *ROOT.glob("e2e/*/*.py")]
    functions = (
        (path, node.name)
        for path in files
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_")
    )
    long = [f"{path.relative_to(ROOT)}: {name}" for path, name in functions if len(name) > LONGEST_NAME]
    assert not long, "\n".join(long)
