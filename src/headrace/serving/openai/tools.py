"""Tools in a request, in the form of chat completions."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag

from headrace.serving.engine import Tool, ToolUse
from headrace.serving.errors import InvalidRequest
from headrace.serving.openai.fields import Fields

MAX_TOOLS = 128
MAX_DESCRIPTION_CHARACTERS = 65536
NAME = r"^[A-Za-z0-9_.-]{1,64}$"


class Function(Fields):
    """A function that the model may call."""

    where = "tools[].function."

    name: str = Field(pattern=NAME)
    description: str | None = Field(default=None, max_length=MAX_DESCRIPTION_CHARACTERS)
    parameters: dict[str, Any] | None = None
    strict: bool | None = None

    def tool(self) -> Tool:
        """Return the tool for the engine."""
        return Tool(self.name, self.description or "", self.parameters or {}, strict=bool(self.strict))


class ToolBody(Fields):
    """One item of `tools`."""

    where = "tools[]."

    type: Literal["function"]
    function: Function


class ChosenFunction(Fields):
    """The name in `tool_choice`."""

    where = "tool_choice.function."

    name: str = Field(pattern=NAME)


class ChosenTool(Fields):
    """The only tool that may be called."""

    where = "tool_choice."

    type: Literal["function"]
    function: ChosenFunction


def text_or_object(value: object) -> str | None:
    """Discriminate a union of text and object; None: neither."""
    return "text" if isinstance(value, str) else "an object" if isinstance(value, dict) else None


ToolChoice = Annotated[
    Annotated[Literal["none", "auto", "required"], Tag("text")] | Annotated[ChosenTool, Tag("an object")],
    Discriminator(text_or_object, "choice_type", "Input should be none, auto, required, or a function"),
]


def tool_use(tools: list[Tool], choice: str | None, name: str | None, *, parallel: bool | None) -> ToolUse | None:
    """Return which tools may be called; None: none. `name`: the only one. Raises InvalidRequest."""
    names = [tool.name for tool in tools]
    if len(set(names)) < len(names):
        raise InvalidRequest("`tools`: two tools have the same name", param="tools")
    if choice == "none" or not tools:
        if choice == "required" or name is not None:
            raise InvalidRequest("`tool_choice` requires a call, and there are no `tools`", param="tool_choice")
        return None
    if name is not None and name not in names:
        raise InvalidRequest(f"`tool_choice`: there is no tool {name!r} in `tools`", param="tool_choice")
    return ToolUse(
        tuple(tools), required=choice == "required" or name is not None, name=name or "", parallel=parallel is not False
    )
