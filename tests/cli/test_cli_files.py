"""Resource files: faults point at their line."""

from __future__ import annotations

from pathlib import Path

import pytest

from headrace.cli.manifests import InvalidFile, read
from headrace.errors import FieldError

FILE = """\
# a comment
apiVersion: headrace.dev/v1alpha1
kind: ModelDeployment
metadata:
  name: smol
spec:
  model:
    source: {uri: "ftp://x"}
  template:
    env:
      - name: A
        value: b
      - name: "B C"
---
apiVersion: v1
kind: Secret
metadata: {name: other}
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "model.yaml"
    file.write_text(FILE)
    return file


@pytest.mark.parametrize(
    ("field", "line"),
    [
        ("spec.model.source.uri", 8),
        ("spec.template.env[1].name", 13),
        ("spec.scaling.minReplicas", 6),
        ("metadata.name", 5),
        ("nothing", 2),
    ],
)
def test_fault_when_its_field_is_looked_for_then_the_line_is_its_or_its_parents(
    path: Path, field: str, line: int
) -> None:
    first, _ = read(str(path))
    assert first.where(FieldError(field, "is wrong")) == f"{path}:{line}: {field}: is wrong"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a: [", ":1: not valid YAML"),
        ("- a\n- b\n", ":1: a resource is a mapping"),
        ("kind: X\nmetadata: {name: y}\n", ":1: the resource has no apiVersion"),
        ("apiVersion: v1\nkind: X\n", ":1: the resource has no metadata.name"),
        ("# nothing\n", "has no resource in it"),
        ("a: !!python/object/apply:os.system [ls]", "could not determine a constructor"),
    ],
)
def test_file_when_it_is_no_list_of_resources_then_the_error_says_where(tmp_path: Path, text: str, says: str) -> None:
    file = tmp_path / "bad.yaml"
    file.write_text(text)
    with pytest.raises(InvalidFile) as caught:
        read(str(file))
    assert says in str(caught.value)


def test_file_when_it_is_missing_then_the_error_names_it(tmp_path: Path) -> None:
    with pytest.raises(InvalidFile, match="No such file"):
        read(str(tmp_path / "nothing.yaml"))


def test_file_when_it_is_a_model_then_it_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "model.gguf"
    file.write_bytes(b"GGUF\x00\xff\xfe" * 100)
    with pytest.raises(InvalidFile):
        read(str(file))
