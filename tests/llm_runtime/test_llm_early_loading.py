"""The model loads while the server is imported, and its errors and stages reach the server."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from headrace.errors import InvalidModel
from headrace_llm.loading import DType, ModelLoading


def test_loading_of_a_broken_file_raises_where_it_is_awaited(tmp_path: Path) -> None:
    """The thread's error is the one that the server's own loading raises."""
    path = tmp_path / "broken.gguf"
    path.write_bytes(b"GGML")
    loading = ModelLoading(path, dtype=DType.AUTO, threads=1)
    with pytest.raises(InvalidModel, match="does not begin with GGUF"):
        loading.file()
    loading.join()


def test_a_late_listener_gets_the_present_stage(tmp_path: Path) -> None:
    """Stages before the server listens are not lost."""
    loading = ModelLoading(tmp_path / "missing.gguf", dtype=DType.AUTO, threads=1)
    loading.join()
    stages: list[tuple[str, int | None]] = []
    loading.report_to(lambda stage, percent: stages.append((stage, percent)))
    assert stages == [("reading-model", None)]


@pytest.mark.parametrize("absent", ["aiohttp", "torch", "transformers"])
def test_the_server_imports_no_large_library(absent: str) -> None:
    """A replica's cold start waits for its imports."""
    code = f"import sys, headrace_llm.server, headrace_llm.engine; sys.exit({absent!r} in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
