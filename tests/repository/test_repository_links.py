"""Links between the documents of the checkout, and the documents that its files name, exist."""

from __future__ import annotations

import re
import tomllib
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCUMENTS = [*ROOT.glob("*.md"), *sorted(ROOT.glob("docs/**/*.md"))]
FOLDERS = ("bench", "charts", "e2e", "gateway", "images", "operator", "runtimes", "src", "tests")
SUFFIXES = {".py", ".yaml", ".tpl", ".json"}
NAMED = re.compile(r"\bdocs/(?!decisions/NNNN)[\w/.-]+\.md\b")
LINK = re.compile(r"\[[^\]]*\]\((?!\w+:)([^)#\s]*)(?:#([^)\s]+))?\)")
CODE = re.compile(r"^```.*?^```$|`[^`\n]+`", re.MULTILINE | re.DOTALL)
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)


@cache
def anchors(document: Path) -> frozenset[str]:
    """Return the anchors of a document's headings, as GitHub makes them."""
    headings = HEADING.findall(re.sub(r"^```.*?^```$", "", document.read_text(), flags=re.MULTILINE | re.DOTALL))
    return frozenset(re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings)


def test_architecture_when_read_then_it_lists_every_layer() -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    layers = next(each["layers"] for each in contracts if each["name"] == "Layers of the core")
    packages = {package for layer in layers for package in re.findall(r"headrace\.(\w+)", layer)}
    table = (ROOT / "docs/architecture.md").read_text().partition("| package | content |")[2].partition("\n\n")[0]
    listed = {name for row in re.findall(r"^\| (`[^|]+) \|", table, re.MULTILINE) for name in re.findall(r"\w+", row)}
    assert packages - listed == set()


@pytest.mark.parametrize("document", DOCUMENTS, ids=[str(path.relative_to(ROOT)) for path in DOCUMENTS])
def test_links_when_followed_then_file_and_heading_exist(document: Path) -> None:
    broken = []
    for path, anchor in LINK.findall(CODE.sub("", document.read_text())):
        target = (document.parent / path).resolve() if path else document
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(f"{path}#{anchor}")
    assert broken == []


def test_documents_when_a_file_names_them_then_they_exist() -> None:
    files = [path for folder in FOLDERS for path in ROOT.glob(f"{folder}/**/*") if path.suffix in SUFFIXES]
    named = {(path, found) for path in files if path != Path(__file__) for found in NAMED.findall(path.read_text())}
    assert named
    missing = {(str(path.relative_to(ROOT)), found) for path, found in named if not (ROOT / found).exists()}
    assert missing == set()
