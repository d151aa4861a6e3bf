"""The native library runs on any processor of its architecture: wide instructions are only behind the dispatch."""

from __future__ import annotations

import pkgutil
import re
import subprocess
from pathlib import Path

import pytest

from headrace.errors import CannotStart
from headrace_models.native import build as native_build
from headrace_models.native import library
from headrace_models.native.build import NoNativeLibrary, build, compile_units, library_path, target_machine

X86 = "x86_64"
WIDE_INSTRUCTION = re.compile(r"^\s+[0-9a-f]+:\s+v[a-z0-9]+\s", re.MULTILINE)
"""Mnemonics of AVX and everything later begin with a v; those of the baseline (SSE2) do not."""


@pytest.fixture(scope="module")
def objects(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The translation units, compiled one by one, by the names of their sources."""
    compiler = native_build.compiler()
    assert compiler
    if target_machine(compiler) != X86:
        pytest.fail("write the rule of this architecture: which instructions are baseline")
    units = compile_units(compiler, X86, tmp_path_factory.mktemp("units"))
    return {f"{path.stem}.cpp": path for path in units}


def test_unit_when_not_dispatched_then_is_baseline(objects: dict[str, Path]) -> None:
    for name, path in objects.items():
        found = WIDE_INSTRUCTION.search(tool("objdump", "--disassemble", "--no-show-raw-insn", path))
        assert bool(found) == (name in native_build.WIDE), (name, found)


def test_unit_when_wide_then_shares_no_function(objects: dict[str, Path]) -> None:
    """The linker takes any unit's copy of a shared (weak) function, and runs constructors before the dispatch."""
    for name in native_build.WIDE:
        symbols = tool("nm", "--demangle", "--defined-only", "--extern-only", objects[name]).splitlines()
        assert len(symbols) == 1, symbols
        assert re.search(r" [DR] headrace::kAvx\d+$", symbols[0]), symbols
        assert ".init_array" not in tool("objdump", "--section-headers", objects[name])


def test_build_when_compiler_fails_then_its_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", fake_compiler(tmp_path, 'echo "line 3: no such thing" >&2; exit 1'))
    with pytest.raises(NoNativeLibrary, match="do not compile: line 3: no such thing"):
        build(tmp_path)


def test_build_when_compiler_is_missing_then_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(NoNativeLibrary, match=r"no C\+\+ compiler.*Install g\+\+"):
        build(tmp_path)


def test_library_path_when_machine_differs_then_other_file() -> None:
    assert library_path(machine="aarch64").name != library_path(machine=X86).name


def test_library_path_when_listed_then_is_no_module(tmp_path: Path) -> None:
    """What imports every module of a package must not try to import the library."""
    library_path(tmp_path).touch()
    assert not list(pkgutil.iter_modules([str(tmp_path)]))


def test_isa_when_unknown_then_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """A wrong HEADRACE_ISA is an error, not a reason to compute with torch."""
    monkeypatch.setenv("HEADRACE_ISA", "avx9")
    library.native.cache_clear()
    with pytest.raises(CannotStart, match="HEADRACE_ISA=avx9") as raised:
        library.native()
    assert not isinstance(raised.value, NoNativeLibrary)
    monkeypatch.undo()
    assert library.isa()


def fake_compiler(folder: Path, failure: str) -> str:
    """Return a compiler that knows its target and fails to compile."""
    path = folder / "c++"
    path.write_text(f'#!/bin/sh\n[ "$1" = -dumpmachine ] && echo {X86}-linux-gnu && exit 0\n{failure}\n')
    path.chmod(0o755)
    return str(path)


def tool(*command: str | Path) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout
