"""The real openai SDK against a model that is there."""

from __future__ import annotations

import asyncio
import math

import openai
import pytest
from behaviours.behaviours_world import World
from openai.types.chat import ChatCompletionMessageParam

QUESTION: list[ChatCompletionMessageParam] = [{"role": "user", "content": "What is the capital of France?"}]


class OpenAIBehaviour:
    """Needs the fixture `served`: a world with the model `smol`, one replica, ready."""

    @pytest.fixture
    def client(self, served: World) -> openai.OpenAI:
        return openai.OpenAI(base_url=served.base_url, api_key=served.api_key, max_retries=0)

    def test_chat_when_asked_then_the_model_knows_paris(self, client: openai.OpenAI) -> None:
        answer = client.chat.completions.create(model="smol", messages=QUESTION, temperature=0, max_tokens=20)
        assert "Paris" in (answer.choices[0].message.content or "")
        assert answer.choices[0].finish_reason == "stop"
        assert answer.usage is not None
        assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens

    def test_stream_when_requested_then_its_text_equals_whole_answer(self, client: openai.OpenAI) -> None:
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

    def test_embeddings_when_requested_then_vectors_of_length_1(self, client: openai.OpenAI) -> None:
        answer = client.embeddings.create(
            model="smol", input=["A cat sat on the mat.", "A cat", "A cat sat on the mat."]
        )
        vectors = [each.embedding for each in answer.data]
        assert vectors[0] == vectors[2] != vectors[1]
        assert [math.hypot(*vector) for vector in vectors] == pytest.approx([1] * 3, abs=1e-4)
        assert answer.usage.prompt_tokens > 0

    async def test_async_client_when_many_requests_then_all_answered(self, served: World) -> None:
        async with openai.AsyncOpenAI(base_url=served.base_url, api_key=served.api_key, max_retries=0) as client:
            answers = await asyncio.gather(
                *(
                    client.completions.create(model="smol", prompt=f"{n} plus one is", temperature=0, max_tokens=4)
                    for n in range(8)
                )
            )
        assert all(answer.choices[0].text for answer in answers)

    def test_completion_when_several_prompts_then_each_gets_a_choice(self, client: openai.OpenAI) -> None:
        prompts = ["One plus one is", "The capital of France is"]
        alone = [
            client.completions.create(model="smol", prompt=prompt, temperature=0, max_tokens=4) for prompt in prompts
        ]
        answer = client.completions.create(model="smol", prompt=prompts, temperature=0, max_tokens=4)
        assert [choice.text for choice in answer.choices] == [each.choices[0].text for each in alone]

    def test_models_when_listed_then_the_public_name_is_there(self, client: openai.OpenAI) -> None:
        assert "smol" in [model.id for model in client.models.list()]

    def test_request_when_the_model_is_unknown_then_not_found(self, client: openai.OpenAI) -> None:
        with pytest.raises(openai.NotFoundError) as caught:
            client.chat.completions.create(model="nobody", messages=QUESTION)
        assert "nobody" in caught.value.message

    def test_request_when_an_option_is_unsupported_then_400_names_it(self, client: openai.OpenAI) -> None:
        with pytest.raises(openai.BadRequestError) as caught:
            client.completions.create(model="smol", prompt="Once", suffix="the end")
        assert caught.value.param == "suffix"

    def test_request_when_prompt_is_too_long_then_400_has_its_length(self, client: openai.OpenAI) -> None:
        with pytest.raises(openai.BadRequestError) as caught:
            client.completions.create(model="smol", prompt="word " * 2000)
        assert "512" in caught.value.message
