"""The real openai SDK, and command-line tools, against a whole instance with a real model."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
import yaml
from acceptance.acceptance_instance import BIN, Instance
from behaviours.behaviours_custom_container import CustomContainerBehaviour
from behaviours.behaviours_openai import OpenAIBehaviour

pytestmark = pytest.mark.acceptance


class TestOpenAI(OpenAIBehaviour):
    pass


class TestCustomContainer(CustomContainerBehaviour):
    pass


def test_llm_tool_when_pointed_at_the_gateway_then_it_answers(instance: Instance, tmp_path: Path) -> None:
    models = [{"model_id": "smol", "model_name": "smol", "api_base": instance.url}]
    (tmp_path / "extra-openai-models.yaml").write_text(yaml.safe_dump(models))
    done = subprocess.run(
        [BIN / "llm", "-m", "smol", "--key", "x", "-o", "temperature", "0", "What is the capital of France?"],
        env={**os.environ, "LLM_USER_PATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert "Paris" in done.stdout, done.stderr


def test_chat_command_when_given_a_question_then_prints_answer(instance: Instance) -> None:
    assert "Paris" in instance.headrace("chat", "smol", "--temperature", "0", "What is the capital of France?")
