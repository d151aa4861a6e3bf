"""Each component of the checkout is in every list that a tool needs; a new one adds an entry to each."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import build
import pytest
import yaml

from headrace.reconcile.images import platform_images

ROOT = Path(__file__).parents[2]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())
TOOLS: dict[str, Any] = PROJECT["tool"]
SCRIPTS: dict[str, str] = PROJECT["project"]["scripts"]
EXTRAS: dict[str, list[str]] = PROJECT["project"]["optional-dependencies"]

PATHS = sorted(path.parent for folder in ("*", "runtimes/*") for path in ROOT.glob(f"{folder}/headrace_*/__init__.py"))
"""The packages of the components: `gateway/headrace_gateway`, `runtimes/llm/headrace_llm`, …"""
SHARED = {"headrace_models"}
"""Packages that components share, without a program of their own."""
COMPONENTS = [path.name for path in PATHS if path.name not in SHARED]
FOLDERS = {str(path.parent.relative_to(ROOT)) for path in PATHS}


def stages() -> dict[str, str]:
    """Return the program of each image in the Dockerfile."""
    text = (ROOT / "images/Dockerfile").read_text()
    return dict(re.findall(r'^FROM image AS (\S+)$.*?^CMD \["([^"]+)"\]$', text, re.MULTILINE | re.DOTALL))


def chart_images() -> dict[str, dict[str, str]]:
    """Return the images of the chart's values by key."""
    values = yaml.safe_load((ROOT / "charts/headrace/values.yaml").read_text())["images"]
    return {key: value for key, value in values.items() if isinstance(value, dict)}


def test_wheel_when_built_then_it_has_every_component() -> None:
    assert {path.name: str(path.relative_to(ROOT)) for path in [ROOT / "src/headrace", *PATHS]} == build.SOURCES


def test_source_distribution_when_built_then_has_every_component() -> None:
    included = set(TOOLS["hatch"]["build"]["targets"]["sdist"]["include"])
    assert {folder.partition("/")[0] for folder in FOLDERS} <= included


def test_ruff_when_it_sorts_imports_then_components_first_party() -> None:
    found = {str(path.relative_to(ROOT)) for pattern in TOOLS["ruff"]["src"] for path in ROOT.glob(pattern)}
    assert found == {"src", *FOLDERS}


def test_mypy_when_it_resolves_imports_then_finds_components() -> None:
    assert set(TOOLS["mypy"]["mypy_path"]) >= FOLDERS


def test_import_contracts_when_checked_then_cover_components() -> None:
    assert set(TOOLS["importlinter"]["root_packages"]) == {"headrace", *COMPONENTS, *SHARED}
    components, shared, core = TOOLS["importlinter"]["contracts"][0]["layers"]
    assert set(components.split(" | ")) == set(COMPONENTS)
    assert shared == "headrace_models"
    assert core == "headrace"


@pytest.mark.parametrize("component", COMPONENTS)
def test_component_when_installed_then_it_has_a_program(component: str) -> None:
    assert f"{component}.main:main" in SCRIPTS.values()


@pytest.mark.parametrize("component", COMPONENTS)
def test_component_when_deployed_then_an_image_has_it(component: str) -> None:
    assert [image.short for image in build.IMAGES if image.component == component]


@pytest.mark.parametrize("image", build.IMAGES, ids=[image.short for image in build.IMAGES])
def test_image_when_built_then_it_has_an_extra_and_its_program(image: build.Image) -> None:
    assert image.extra is None or image.extra in EXTRAS
    package = SCRIPTS[stages()[image.short]].partition(".")[0]
    assert package == (image.component or "headrace")


def test_dockerfile_when_read_then_each_target_is_an_image() -> None:
    assert set(stages()) == {image.short for image in build.IMAGES}


def test_chart_when_it_names_images_then_they_are_the_built_ones() -> None:
    named = {value["repository"] for value in chart_images().values() if value["repository"]}
    assert named == {image.name for image in build.IMAGES}


def test_chart_when_it_names_pod_images_then_reconcile_uses_them() -> None:
    keys = {key for image in platform_images() for key in (image.key, image.gpu_key) if key}
    assert set(chart_images()) - {"operator", "gateway", "node", "nats"} == keys


def test_extra_for_all_when_installed_then_it_has_every_extra() -> None:
    """But that of development, which contains it."""
    assert _closure("all") == set(EXTRAS) - {"dev"}


def _closure(extra: str) -> set[str]:
    inner = [
        name
        for item in EXTRAS[extra]
        if (ours := re.fullmatch(r"headrace\[(.+)\]", item))
        for name in ours[1].split(",")
    ]
    return {extra}.union(*map(_closure, inner))
