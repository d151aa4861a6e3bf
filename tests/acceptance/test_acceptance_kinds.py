"""A second kind, in an instance on this machine."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from acceptance import acceptance_instance
from acceptance.acceptance_instance import Instance
from acceptance.acceptance_world import LocalWorld
from behaviours.behaviours_kinds import NAME, SecondKindBehaviour, a_model, ready
from kinds import greeting


@pytest.fixture(scope="module")
def greetings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalWorld]:
    """An instance of a program that has the kind."""
    programs = tmp_path_factory.mktemp("b")
    path = f"import sys; sys.path.insert(0, {str(Path(greeting.__file__).parent)!r})\n"
    program = programs / "headrace"
    program.write_text(f"#!{sys.executable}\n{path}{greeting.PROGRAM.format(module='headrace.cli.main')}")
    program.chmod(0o755)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(acceptance_instance, "BIN", programs)
        instance = Instance(tmp_path_factory.mktemp("k")).start()
        yield LocalWorld(instance, Path("/nowhere"))
        assert instance.stop() == 0, instance.said()


class TestSecondKind(SecondKindBehaviour):
    def test_commands_follow_the_record_of_the_kind(self, greetings: LocalWorld) -> None:
        instance = greetings.instance
        greetings.apply(greeting.greeting(NAME, model=NAME))
        greetings.apply(a_model())
        instance.headrace("wait", "hi/hello", "--for", "condition=Ready", "--timeout", "60s")
        header, row = (line.split() for line in instance.headrace("get", "hi").splitlines())
        assert header == ["NAME", "READY", "AGE"]
        assert row[:2] == ["hello", "True"]
        described = instance.headrace("describe", "hi/hello")
        assert "ModelReady" in described
        assert "Pods:" not in described
        assert "greetings have no log" in instance.run("logs", "hi/hello").stderr
        assert "greetings cannot be scaled" in instance.run("scale", "hi/hello", "--replicas", "2").stderr
        instance.headrace("delete", "hi/hello", "mdep/hello")

    def test_restart_observes_the_greeting_anew(self, greetings: LocalWorld) -> None:
        instance = greetings.instance
        greetings.apply(greeting.greeting(NAME, model=NAME))
        greetings.apply(a_model())
        ready(greetings, "True", "ModelReady")
        assert instance.stop() == 0
        instance.start()
        ready(greetings, "True", "ModelReady")
        assert greetings.find("configmaps", "hello-greeting") is not None
