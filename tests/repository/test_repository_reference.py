"""The generated parts of the reference are those of the code, and complete."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from generators import chart_values, errors, metrics, pages, programs, reasons, source, variables

from headrace.kinds.registry import RESOURCE_KINDS
from headrace.runtimes.registry import PROFILES

PAGES = {path.name: path.read_text() for path in pages.pages()}
CONDITIONS = (pages.REFERENCE / "conditions.md").read_text()


@pytest.mark.parametrize("page", PAGES)
def test_page_when_generated_again_then_the_checkout_has_it(page: str) -> None:
    """`make docs` was run after the last change of what the page describes."""
    assert pages.rendered(PAGES[page]) == PAGES[page]


def test_parts_when_listed_then_each_is_in_one_page() -> None:
    """A new kind of resource needs a page with its spec, its status and its conditions."""
    assert sorted(name for text in PAGES.values() for name in pages.names(text)) == sorted(pages.parts())


def test_reasons_when_listed_then_each_has_a_meaning() -> None:
    for heading in (reasons.CONDITION_REASONS, reasons.EVENT_REASONS, reasons.CAPABILITIES):
        found = {each.value: reasons.meaning(each) for each in reasons.under(heading)}
        assert found
        assert [name for name, meaning in found.items() if not meaning] == []


@pytest.mark.parametrize("kind", RESOURCE_KINDS)
def test_condition_types_when_listed_then_the_page_has_each(kind: str) -> None:
    """The table that says which reasons a type has is written by hand."""
    assert [name for name in RESOURCE_KINDS[kind].conditions if f"\n| `{name}` | `" not in CONDITIONS] == []


def test_reasons_when_listed_then_a_condition_has_each() -> None:
    table = CONDITIONS.partition("| type | True |")[2].partition("\n\n")[0]
    assert [each.value for each in reasons.under(reasons.CONDITION_REASONS) if f"`{each.value}`" not in table] == []


@pytest.mark.parametrize("runtime", PROFILES)
def test_metrics_when_listed_then_each_of_a_runtime(runtime: str) -> None:
    listed = {
        row.split("`")[1].removesuffix("_total") for row in metrics.runtime().splitlines() if f"`{runtime}`" in row
    }
    assert listed == set(PROFILES[runtime].metrics)


def test_errors_when_listed_then_those_of_every_module() -> None:
    """Also of modules that are not named `errors`, in each package."""
    found = {each.__name__ for each in errors.classes()}
    assert found >= {"LoginRefused", "NamespacesRefused", "WaitTimeout", "NoRoom", "InvalidFile", "InvalidHome"}
    assert found >= {"BadRequest", "ReadOnly", "NotOurs", "ApiError", "Draining", "GatewayStopping"}
    assert not found & {each.__name__ for each in errors.INTERNAL}


def test_errors_when_imported_in_another_order_then_same_page() -> None:
    program = "import headrace_gateway.main; from generators import errors; print(errors.requests() + errors.others())"
    made = subprocess.run(
        [sys.executable, "-c", program],
        env={"PYTHONPATH": "docs"},
        cwd=source.CHECKOUT,
        check=True,
        capture_output=True,
        text=True,
    )
    assert made.stdout.strip() == (errors.requests() + errors.others()).strip()


def test_variables_when_listed_then_each_has_a_meaning() -> None:
    known = variables.documented() | variables.MEANINGS
    assert variables.named() - known.keys() == set()
    assert variables.MEANINGS.keys() - variables.named() == set()


def test_programs_when_listed_then_each_is_described() -> None:
    described = programs.commands() + programs.servers()
    assert [name for name in programs.scripts() if f"### {name}" not in described] == []


def test_constants_when_read_then_with_docstring_and_comments(tmp_path: Path) -> None:
    file = tmp_path / "words.py"
    file.write_text(
        '# -- words ---\n# Ready\nA = "Alpha"\n"""First."""\nB = "Beta"\n# -- more ---\nC = "Gamma"\nD = 1\n'
    )
    assert [*source.constants_of(file)] == [
        source.Constant("Alpha", "First.", "words", "Ready"),
        source.Constant("Beta", "", "words", "Ready"),
        source.Constant("Gamma", "", "more", ""),
    ]


def test_chart_values_when_read_then_with_default_and_comment(tmp_path: Path) -> None:
    file = tmp_path / "values.yaml"
    file.write_text("# Above,\n# in two lines.\na: {}\n# Parent.\nb:\n  c: 4 # behind\n  d: [1]\n")
    assert [*chart_values.rows(file)] == [
        ("`a`", "`{}`", "Above, in two lines."),
        ("`b`", "", "Parent."),
        ("`b.c`", "`4`", "behind"),
        ("`b.d`", "`[1]`", ""),
    ]
