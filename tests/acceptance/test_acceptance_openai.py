"""The real openai SDK, and a command-line tool nobody here wrote, against a whole instance with a real model."""

from __future__ import annotations

import asyncio
import os
import subprocess
from pathlib import Path

import openai
import pytest
import yaml
from acceptance.acceptance_instance import BIN, Instance
from openai.types.chat import ChatCompletionMessageParam

pytestmark = pytest.mark.acceptance
QUESTION: list[ChatCompletionMessageParam] = [{"role": "user", "content": "What is the capital of France?"}]


@pytest.fixture
def client(instance: Instance) -> openai.OpenAI:
    return openai.OpenAI(base_url=instance.url, api_key="none", max_retries=0)


def test_chat_when_asked_then_the_model_knows_paris(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model="smol", messages=QUESTION, temperature=0, max_tokens=20)
    assert "Paris" in (answer.choices[0].message.content or "")
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage is not None
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens


def test_stream_when_asked_then_its_text_is_that_of_the_whole_answer(client: openai.OpenAI) -> None:
    whole = client.chat.completions.create(model="smol", messages=QUESTION, temperature=0, max_tokens=20)
    stream = client.chat.completions.create(
        model="smol",
        messages=QUESTION,
        temperature=0,
        max_tokens=20,
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks = list(stream)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == whole.choices[0].message.content
    assert chunks[-1].usage == whole.usage


async def test_async_client_when_many_ask_at_once_then_all_are_answered(instance: Instance) -> None:
    async with openai.AsyncOpenAI(base_url=instance.url, api_key="none", max_retries=0) as client:
        answers = await asyncio.gather(
            *(
                client.completions.create(model="smol", prompt=f"{n} plus one is", temperature=0, max_tokens=4)
                for n in range(8)
            )
        )
    assert all(answer.choices[0].text for answer in answers)


def test_models_when_listed_then_the_public_name_is_there(client: openai.OpenAI) -> None:
    assert "smol" in [model.id for model in client.models.list()]


def test_request_when_the_model_is_unknown_then_not_found(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        client.chat.completions.create(model="nobody", messages=QUESTION)
    assert "nobody" in caught.value.message


def test_request_when_an_option_is_unsupported_then_bad_request_names_it(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model="smol", messages=QUESTION, n=2)
    assert caught.value.param == "n"


def test_request_when_the_prompt_is_too_long_then_bad_request_says_how_long(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.completions.create(model="smol", prompt="word " * 2000)
    assert "512" in caught.value.message


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


def test_chat_command_when_given_a_question_then_it_prints_the_answer(instance: Instance) -> None:
    assert "Paris" in instance.headrace("chat", "smol", "--temperature", "0", "What is the capital of France?")
