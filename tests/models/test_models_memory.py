"""Weights and KV cache are compared with the memory that this process may have."""

from __future__ import annotations

import logging
import mmap
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from models.model_files import GGUFModel
from models.native_models import PLAIN, model_weights
from models.test_models_model_file import loaded

from headrace.errors import CannotStart
from headrace_models import kv_memory
from headrace_models.encodings import TensorType
from headrace_models.memory import Memory, read_memory
from headrace_models.native.packing import pack
from headrace_models.weights import RawTensor

GIB = 1 << 30


def _system(root: Path, **files: str) -> Path:
    """Write a machine of 8 GiB, 2 GiB of them available, with these files of /sys/fs/cgroup and its own cgroups."""
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/meminfo").write_text("MemTotal:  8388608 kB\nMemFree: 1 kB\nMemAvailable:  2097152 kB\n")
    (root / "proc/self/cgroup").write_text(files.pop("own"))
    for name, text in files.items():
        path = root / "sys/fs/cgroup" / name.replace("__", "/").replace("_DOT_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def test_memory_when_nothing_limits_it_then_it_is_the_machines(tmp_path: Path) -> None:
    root = _system(tmp_path, own="0::/\n", memory_DOT_max="max\n")
    assert read_memory(root) == Memory(8 * GIB, 2 * GIB)


def test_memory_when_the_system_says_nothing_then_it_is_unknown(tmp_path: Path) -> None:
    assert read_memory(tmp_path) == Memory(None, None)


def test_memory_when_a_cgroup_above_limits_it_then_that_counts(tmp_path: Path) -> None:
    root = _system(tmp_path, own="0::/pods/one\n", pods__memory_DOT_max=f"{GIB}\n", pods__one__memory_DOT_max="max\n")
    assert read_memory(root) == Memory(GIB, GIB)


@pytest.mark.parametrize("at", ["", "pod__"])
def test_memory_when_version_1_limits_it_then_that_counts(tmp_path: Path, at: str) -> None:
    """In a container the path may be one of the host, which is not to be seen: then the mount's root counts."""
    limit = {f"memory__{at}memory_DOT_limit_in_bytes": f"{3 * GIB}\n"}
    root = _system(tmp_path, own="9:cpu:/\n4:memory:/pod\n0::/\n", **limit)
    assert read_memory(root) == Memory(3 * GIB, 2 * GIB)


def _has(memory: Memory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kv_memory, "read_memory", lambda: memory)


def test_cache_when_it_can_never_fit_then_refused_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _has(Memory(GIB, GIB), monkeypatch)
    with pytest.raises(CannotStart, match=r"the KV cache of .* for 67108864 tokens, does not fit into"):
        loaded(tmp_path, GGUFModel(), max_concurrent=1 << 20)


async def test_cache_when_it_does_not_fit_now_then_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    _has(Memory(GIB, 1000), monkeypatch)
    with caplog.at_level(logging.WARNING):
        await loaded(tmp_path, GGUFModel()).close()
    assert "available now. Lower spec.runtime.llm.maxModelLen or maxConcurrentRequests" in caplog.text


async def test_context_when_shorter_than_requested_then_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        engine = loaded(tmp_path, GGUFModel(), max_model_len=1 << 20)
    await engine.close()
    assert f"maxModelLen is {1 << 20}, and the model's context {engine.model_len}" in caplog.text


def test_mapped_weights_when_packed_then_no_longer_resident(tmp_path: Path) -> None:
    """The tensors' pages are dropped, and read from the file again when they are needed."""
    path = tmp_path / "tensor"
    path.write_bytes(np.arange(90 * 256, dtype=np.float32).tobytes())
    with path.open("rb") as file:
        area = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
    weights = model_weights(PLAIN)
    name = "token_embd.weight"
    tensors = {**weights.tensors, name: RawTensor(name, (90, 256), TensorType.F32, memoryview(area))}
    first = pack(replace(weights, tensors=tensors), threads=1)
    (mapping,) = (text for text in Path("/proc/self/smaps").read_text().split("VmFlags") if str(path) in text)
    assert "\nRss:                   0 kB" in mapping
    assert pack(replace(weights, tensors=tensors), threads=1) == first
