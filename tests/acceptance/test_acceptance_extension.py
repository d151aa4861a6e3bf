"""A kind, a runtime type and an operation are under 60 lines together, and all three work in an instance."""

from __future__ import annotations

import site
import sys
import urllib.error
import urllib.request
import venv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from acceptance import acceptance_instance
from acceptance.acceptance_instance import Instance
from acceptance.acceptance_world import LocalWorld
from behaviours.behaviours_world import Manifest, model, until

EXTENSION = Path(__file__).with_name("extension.py")
MAX_LINES = 59
NAME = "org/echo"
FROM_ZERO = {"minReplicas": 0, "idleTimeoutSeconds": 600}
PROGRAMS = {
    "headrace": ("headrace.cli.main", ""),
    "headrace-gateway": ("headrace_gateway.main", "operations=OPERATION_TABLE"),
}
PROGRAM = """\
#!{python}
import sys
from extension import OPERATION_TABLE
from {module} import main
sys.exit(main({arguments}))
"""


@pytest.fixture
def extended(tmp_path: Path, own_home: Path) -> Iterator[LocalWorld]:
    """An instance in an environment whose programs have the extension, as if it was installed with them."""
    programs = environment_with_extension(tmp_path / "environment")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(acceptance_instance, "BIN", programs)
        patch.setenv("PATH", f"{Path(sys.executable).parent}:/usr/bin:/bin")  # of nats-server and python3
        instance = Instance(own_home).start()
        yield LocalWorld(instance, Path("/nowhere"))
        assert instance.stop() == 0, instance.said()


def environment_with_extension(directory: Path) -> Path:
    """Make a virtual environment on top of this one; return the folder of its programs."""
    venv.create(directory, symlinks=True)
    packages = next(directory.glob("lib/python*/site-packages"))
    inherited = "; ".join(f"site.addsitedir({each!r})" for each in site.getsitepackages())
    (packages / "extension.pth").write_text(f"{EXTENSION.parent}\nimport site; {inherited}\n")
    for name, (module, arguments) in PROGRAMS.items():
        program = directory / "bin" / name
        program.write_text(PROGRAM.format(python=directory / "bin/python3", module=module, arguments=arguments))
        program.chmod(0o755)
    return directory / "bin"


def post(world: LocalWorld, path: str, body: str) -> tuple[int, str, str | None]:
    """Return status, body and reason."""
    request = urllib.request.Request(f"{world.base_url}/{path}", body.encode(), {"content-type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=world.patience) as answer:
            return answer.status, answer.read().decode(), None
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode(), error.headers["x-headrace-reason"]


def state(world: LocalWorld) -> dict[str, Any]:
    """Return status and reason of the card's conditions."""
    card = world.find("modelcards", "card")
    assert card is not None
    conditions = card.get("status", {}).get("conditions", [])
    return {each["type"]: (each["status"], each["reason"]) for each in conditions}


def test_extension_when_counted_then_under_60_lines() -> None:
    assert len(EXTENSION.read_text().splitlines()) <= MAX_LINES


def test_kind_runtime_type_and_operation_work_together(extended: LocalWorld) -> None:
    """The operation starts a replica of the runtime type from zero, and the status of the kind follows the model."""
    card: Manifest = {"apiVersion": "headrace.dev/v1alpha1", "kind": "ModelCard", "metadata": {"name": "card"}}
    extended.apply({**card, "spec": {"modelRef": "echo"}})
    until(lambda: state(extended) == {"Ready": ("False", "ModelNotFound")}, lambda: state(extended))
    extended.apply(model(None, "echo", model={"name": NAME}, runtime={"type": "Echo"}, scaling=FROM_ZERO))
    until(lambda: state(extended) == {"Ready": ("True", "Idle")}, lambda: state(extended))
    assert post(extended, "echo/org%2Fecho", '{"a": 1}') == (200, 'org/echo /v1/echo/org%2Fecho {"a": 1}', None)
    until(lambda: state(extended) == {"Ready": ("True", "Running")}, lambda: state(extended))
    child = extended.find("configmaps", "card-card")
    assert child is not None
    assert child["data"] == {"model": "echo"}
    status, _, reason = post(extended, "chat/completions", f'{{"model": "{NAME}", "messages": []}}')
    assert (status, reason) == (400, "OperationNotSupported")
