"""Which decoder computes a model when the native library cannot be used."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from models.native_models import PLAIN, model_weights

from headrace.errors import CannotStart
from headrace_llm import loading
from headrace_llm.loading import DType, load_decoder
from headrace_models.model_file import ModelFile
from headrace_models.native import library
from headrace_models.native.build import NoNativeLibrary


@pytest.fixture
def file(monkeypatch: pytest.MonkeyPatch) -> ModelFile:
    """A model in memory, on a machine without the library and without a compiler."""

    def missing() -> Path:
        raise NoNativeLibrary("there is no C++ compiler to build the native kernels", hint="Install g++")

    monkeypatch.setattr(library, "_built", missing)
    library.native.cache_clear()
    model = ModelFile.__new__(ModelFile)
    monkeypatch.setattr(ModelFile, "weights", model_weights(PLAIN), raising=False)
    return model


def test_load_when_no_library_then_torch_and_log(file: ModelFile, caplog: pytest.LogCaptureFixture) -> None:
    stages: list[str] = []
    decoder = load_decoder(file, dtype=DType.AUTO, threads=1, progress=lambda stage, _: stages.append(stage))
    assert decoder.kernels == "torch"
    assert "loading-torch" in stages
    (record,) = (each for each in caplog.records if each.levelno >= logging.ERROR)
    assert "no C++ compiler" in record.getMessage()
    assert "torch" in record.getMessage()


def test_load_when_neither_library_nor_torch_then_hint(file: ModelFile, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "find_spec", lambda _: None)
    with pytest.raises(
        CannotStart, match=r"no C\+\+ compiler.*torch is not installed.*Install g\+\+.*headrace\[torch\]"
    ):
        load_decoder(file, dtype=DType.AUTO, threads=1, progress=lambda *_: None)


def test_load_when_isa_is_unknown_then_no_fallback(monkeypatch: pytest.MonkeyPatch) -> None:
    """A setting that cannot be followed is an error."""
    monkeypatch.setenv("HEADRACE_ISA", "avx9")
    library.native.cache_clear()
    monkeypatch.setattr(ModelFile, "weights", model_weights(PLAIN), raising=False)
    with pytest.raises(CannotStart, match="HEADRACE_ISA=avx9"):
        load_decoder(ModelFile.__new__(ModelFile), dtype=DType.AUTO, threads=1, progress=lambda *_: None)
