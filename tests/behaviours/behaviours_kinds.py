"""Resources of two kinds with one name: each has its children, and one refers to the other."""

from __future__ import annotations

from typing import Any

import pytest
from behaviours.behaviours_world import SCALING, Manifest, World, model, until, wait
from kinds.greeting import greeting

NAME = "hello"
CHILD = "hello-greeting"
Children = tuple[tuple[str, str], ...]
MODELS_CHILDREN: Children = (("services", NAME),)
GREETINGS_CHILDREN: Children = (("configmaps", CHILD), ("services", CHILD))
"""By plural and name."""
ENGINE = {"type": "Container", "container": {"image": "an-engine:1", "command": ["serve"]}}
"""It is never started: the model stays at zero, where it is ready without a replica."""


class SecondKindBehaviour:
    """Fixture `greetings`: a world with the kind of `kinds.greeting`."""

    def test_referenced_model_when_changed_changes_the_status(self, greetings: World) -> None:
        greetings.apply(greeting(NAME, model=NAME))
        ready(greetings, "False", "ModelNotFound")
        greetings.apply(a_model())
        wait(greetings, NAME, "Idle")
        ready(greetings, "True", "ModelReady")
        greetings.apply(a_model(suspend=True))
        assert "Suspended" in ready(greetings, "False", "ModelNotReady")["message"]
        greetings.delete(NAME)
        ready(greetings, "False", "ModelNotFound")

    def test_greeting_when_its_text_changes_then_its_child_does(self, greetings: World) -> None:
        greetings.apply(greeting(NAME, model=NAME))
        for text in ("good evening", "good night"):
            greetings.apply(greeting(NAME, model=NAME, text=text))
            until(lambda t=text: text_of(greetings) == t, lambda t=text: f"the child has {t}", greetings.patience)  # type: ignore[misc]

    def test_kinds_of_one_name_keep_their_own_children(self, greetings: World) -> None:
        """Also when one of them is deleted, whose own children go."""
        for first, second in ((a_model(), greeting(NAME, model=NAME)), (greeting(NAME, model=NAME), a_model())):
            greetings.apply(first)
            greetings.apply(second)
            wait(greetings, NAME, "Idle")
            ready(greetings, "True", "ModelReady")
            of_model, of_greeting = uids(greetings, MODELS_CHILDREN), uids(greetings, GREETINGS_CHILDREN)
            assert None not in (*of_model, *of_greeting)
            if second["kind"] == "Greeting":
                greetings.remove("greetings", NAME)
                gone(greetings, GREETINGS_CHILDREN)
                wait(greetings, NAME, "Idle")
                assert uids(greetings, MODELS_CHILDREN) == of_model
                greetings.delete(NAME)
            else:
                greetings.delete(NAME)
                gone(greetings, MODELS_CHILDREN)
                ready(greetings, "False", "ModelNotFound")
                assert uids(greetings, GREETINGS_CHILDREN) == of_greeting

    def test_greeting_when_it_is_invalid_then_the_field_is_named(self, greetings: World) -> None:
        with pytest.raises((AssertionError, RuntimeError), match=r"spec\.text"):
            greetings.apply(greeting("bad", model=NAME, text=""))


def a_model(**spec: Any) -> Manifest:
    return model(None, NAME, runtime=ENGINE, scaling=SCALING, **spec)


def ready(world: World, status: str, reason: str) -> Manifest:
    """Return the Greeting's condition, once it has the status and the reason."""

    def conditions() -> list[Manifest]:
        found = world.find("greetings", NAME)
        assert found is not None
        return [dict(each) for each in found.get("status", {}).get("conditions", [])]

    return until(
        lambda: next((each for each in conditions() if (each["status"], each["reason"]) == (status, reason)), None),
        lambda: f"the Greeting is {status} {reason}; it is {conditions()}",
        world.patience,
    )


def text_of(world: World) -> str | None:
    found = world.find("configmaps", CHILD)
    return None if found is None else str(found["data"]["text"])


def uids(world: World, children: Children) -> list[str | None]:
    found = [world.find(kind, name) for kind, name in children]
    return [None if each is None else str(each["metadata"]["uid"]) for each in found]


def gone(world: World, children: Children) -> None:
    until(lambda: set(uids(world, children)) == {None}, f"none of {children} exists", world.patience)
