"""Fields that restrict the text of an answer: `response_format`, and vLLM's `structured_outputs`."""

from __future__ import annotations

import json
import re
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Discriminator, Field, Tag

from headrace.serving.engine import Constraint, ConstraintKind
from headrace.serving.errors import InvalidRequest
from headrace.serving.openai.fields import Fields

MAX_CONSTRAINT_CHARACTERS = 65536
"""Of a schema, an expression or a grammar: compiling takes time in proportion, or more."""
MAX_ALTERNATIVES = 1024
ANY_OBJECT = '{"type":"object"}'


class JsonSchema(Fields):
    """The schema of `response_format: {"type": "json_schema"}`."""

    where = "response_format.json_schema."

    name: str | None = Field(default=None, max_length=64)
    description: str | None = None
    schema_: dict[str, Any] = Field(alias="schema")
    strict: bool | None = None
    """The answer always matches the schema."""


class ResponseFormat(Fields):
    """OpenAI's `response_format`."""

    where = "response_format."

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None

    def constraint(self) -> Constraint | None:
        """Return what the answer must match; None: it is any text."""
        if self.type == "text":
            return None
        if self.type == "json_object":
            return Constraint(ConstraintKind.JSON_SCHEMA, ANY_OBJECT, "response_format")
        if self.json_schema is None:
            raise InvalidRequest("`response_format.json_schema` is missing", param="response_format.json_schema")
        return schema_constraint(self.json_schema.schema_, "response_format.json_schema.schema")


def _schema_form(value: object) -> str | None:
    return "text" if isinstance(value, str) else "an object" if isinstance(value, dict) else None


class StructuredOutputs(Fields):
    """vLLM's `structured_outputs`: exactly one of its fields is set."""

    where = "structured_outputs."
    off: ClassVar = {
        "structural_tag": (),
        "whitespace_pattern": (),
        "disable_any_whitespace": (False,),
        "disable_additional_properties": (False,),
        "disable_fallback": (False, True),
    }

    json_: (
        Annotated[
            Annotated[str, Field(max_length=MAX_CONSTRAINT_CHARACTERS), Tag("text")]
            | Annotated[dict[str, Any], Tag("an object")],
            Discriminator(_schema_form, "schema_type", "Input should be a JSON schema"),
        ]
        | None
    ) = Field(default=None, alias="json")
    regex: str | None = Field(default=None, min_length=1, max_length=MAX_CONSTRAINT_CHARACTERS)
    choice: list[Annotated[str, Field(min_length=1)]] | None = Field(
        default=None, min_length=1, max_length=MAX_ALTERNATIVES
    )
    grammar: str | None = Field(default=None, min_length=1, max_length=MAX_CONSTRAINT_CHARACTERS)
    """Lark's notation."""
    json_object: bool | None = None

    def constraint(self) -> Constraint:
        """Return what the answer must match."""
        found: list[Constraint] = []
        if self.json_ is not None:
            found.append(schema_constraint(self.json_, "structured_outputs.json"))
        if self.regex is not None:
            found.append(Constraint(ConstraintKind.REGEX, self.regex, "structured_outputs.regex"))
        if self.choice is not None:
            expression = "|".join(re.escape(each) for each in self.choice)
            found.append(_bounded(Constraint(ConstraintKind.REGEX, expression, "structured_outputs.choice")))
        if self.grammar is not None:
            found.append(Constraint(ConstraintKind.GRAMMAR, self.grammar, "structured_outputs.grammar"))
        if self.json_object:
            found.append(Constraint(ConstraintKind.JSON_SCHEMA, ANY_OBJECT, "structured_outputs.json_object"))
        if len(found) != 1:
            raise InvalidRequest(
                "`structured_outputs` needs exactly one of `json`, `regex`, `choice`, `grammar` and `json_object`",
                param="structured_outputs",
            )
        return found[0]


def schema_constraint(schema: str | dict[str, Any], param: str) -> Constraint:
    """Return the constraint of a JSON schema. Raises InvalidRequest if it is too long."""
    text = schema if isinstance(schema, str) else json.dumps(schema, ensure_ascii=False, separators=(",", ":"))
    return _bounded(Constraint(ConstraintKind.JSON_SCHEMA, text, param))


def _bounded(constraint: Constraint) -> Constraint:
    if len(constraint.text) > MAX_CONSTRAINT_CHARACTERS:
        raise InvalidRequest(
            f"`{constraint.param}` has {len(constraint.text)} characters, and {MAX_CONSTRAINT_CHARACTERS} are allowed",
            param=constraint.param,
        )
    return constraint
