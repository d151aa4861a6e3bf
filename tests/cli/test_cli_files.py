"""Manifests: faults point at their line."""

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
def test_fault_when_its_field_is_looked_up_then_line_is_nearest(path: Path, field: str, line: int) -> None:
    """It is the field's line, or that of its parent."""
    first, _ = read(str(path))
    assert first.where(FieldError(field, "is wrong")) == f"{path}:{line}: {field}: is wrong"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a: [", ":1: not valid YAML"),
        ("- a\n- b\n", ":1: this is not a resource. A resource is a mapping"),
        ("kind: X\nmetadata: {name: y}\n", ":1: the resource has no apiVersion"),
        ("apiVersion: v1\nkind: X\n", ":1: the resource has no metadata.name"),
        ("# nothing\n", "contains no resource"),
        ("---\n---\nnull\n...\n", "contains no resource"),
        (
            "a: &a [*a]\napiVersion: v1\nkind: X\nmetadata: {name: y}\n",
            ":1: the resource has a value that is not valid in JSON",
        ),
        (
            "a: .nan\napiVersion: v1\nkind: X\nmetadata: {name: y}\n",
            ":1: the resource has a value that is not valid in JSON",
        ),
        (
            "a: !!binary aGk=\napiVersion: v1\nkind: X\nmetadata: {name: y}\n",
            ":1: the resource has a value that is not valid in JSON",
        ),
        ("[" * 20_000, "nested too deeply"),  # some library here raises Python's limit
        ("a: !!python/object/apply:os.system [ls]", "could not determine a constructor"),
    ],
)
def test_file_when_not_a_list_of_resources_then_error_says_where(tmp_path: Path, text: str, says: str) -> None:
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


@pytest.mark.parametrize(
    "written", ["2024-05-01", "2024-05-01T10:00:00Z", "2024-05-01 10:00:00", "!!timestamp 2024-05-01"]
)
def test_date_when_not_quoted_then_it_is_text_as_in_kubernetes(tmp_path: Path, written: str) -> None:
    file = tmp_path / "dated.yaml"
    file.write_text(f"apiVersion: v1\nkind: X\nmetadata:\n  name: y\n  annotations:\n    built: {written}\n")
    (document,) = read(str(file))
    assert document.manifest["metadata"]["annotations"] == {"built": written.removeprefix("!!timestamp ")}


@pytest.mark.parametrize("text", [f"{FILE}---\n", f"---\n---\n{FILE}", f"{FILE}---\n# a comment\n---\nnull\n"])
def test_document_when_empty_then_it_is_skipped_as_in_kubectl(tmp_path: Path, text: str) -> None:
    file = tmp_path / "some.yaml"
    file.write_text(text)
    assert [document.manifest["metadata"]["name"] for document in read(str(file))] == ["smol", "other"]
