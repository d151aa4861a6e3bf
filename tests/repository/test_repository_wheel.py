"""The wheel built from the checkout, installed elsewhere, is the whole product."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
from acceptance.acceptance_instance import Instance, model
from acceptance.acceptance_world import LocalWorld
from behaviours.behaviours_traffic import post, short

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The programs of a fresh environment with our wheel; other packages are those of this environment."""
    directory = tmp_path_factory.mktemp("w")
    wheels = directory / "wheels"
    # Without isolation: the build backend is that of the dev extra, and nothing is fetched.
    build = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-index", "--no-build-isolation"]
    subprocess.run([*build, "-w", str(wheels), str(ROOT)], check=True)
    subprocess.run([sys.executable, "-m", "venv", str(directory / "venv")], check=True)
    programs = directory / "venv" / "bin"
    packages = next((directory / "venv/lib").glob("python*/site-packages"))
    # A path file of a path file is not read, so the checkout itself, which is installed by one, is not on the path.
    (packages / "others.pth").write_text(sysconfig.get_path("purelib") + "\n")
    wheel = next(wheels.glob("headrace-*.whl"))
    install = [str(programs / "python"), "-m", "pip", "install", "-q", "--no-deps", "--no-index", str(wheel)]
    subprocess.run(install, check=True)
    return programs


def test_wheel_when_installed_then_nothing_comes_from_checkout(elsewhere: Path, tmp_path: Path) -> None:
    code = "import headrace, headrace_gateway, headrace_llm; print(headrace.__file__, headrace_gateway.__file__)"
    command = [str(elsewhere / "python"), "-c", code]
    done = subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, text=True)
    assert str(ROOT) not in done.stdout


def test_wheel_when_installed_then_has_the_native_kernels(elsewhere: Path, tmp_path: Path) -> None:
    """No compiler is in PATH, and no library in the user's cache."""
    code = "from headrace_models.native import library; print(library._built(), library.isa())"
    environment = {"PATH": str(tmp_path), "HOME": str(tmp_path)}
    command = [str(elsewhere / "python"), "-c", code]
    done = subprocess.run(command, cwd=tmp_path, env=environment, check=True, capture_output=True, text=True)
    assert done.stdout.startswith(str(elsewhere.parent))
    assert done.stdout.split()[-1] in {"avx512", "avx2", "portable"}


@pytest.mark.parametrize("command", ["version", "doctor"])
def test_wheel_when_installed_elsewhere_then_its_commands_run(
    elsewhere: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    monkeypatch.setenv("HEADRACE_HOME", str(tmp_path))
    monkeypatch.setenv("PATH", f"{elsewhere}{os.pathsep}{os.environ['PATH']}{os.pathsep}{Path(sys.executable).parent}")
    done = subprocess.run([elsewhere / "headrace", command], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.strip()


def test_wheel_when_installed_then_its_instance_answers(
    elsewhere: Path, tmp_path_factory: pytest.TempPathFactory, smollm2_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", f"{os.environ['PATH']}{os.pathsep}{Path(sys.executable).parent}")  # nats-server
    monkeypatch.setattr("acceptance.acceptance_instance.BIN", elsewhere)
    instance = Instance(tmp_path_factory.mktemp("i")).start()
    try:
        instance.apply(model(smollm2_path))
        instance.headrace("wait", "mdep/smol", "--timeout", "90s")
        assert post(LocalWorld(instance, smollm2_path), "/completions", short())[0] == 200
    finally:
        assert instance.stop() == 0, instance.said()
