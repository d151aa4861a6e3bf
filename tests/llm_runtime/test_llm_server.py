"""The real server with the real model, asked by the real `openai` SDK."""

from __future__ import annotations

import asyncio
import json
import math
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import openai
import pytest
from llm_runtime.llm_adapter import write_adapter
from openai.types.chat import ChatCompletionMessageParam

from headrace.errors import InvalidModel
from headrace.headers import CURSORS
from headrace.runtimes.llm import LLM

MODEL = "smollm2-135m-instruct"
MODEL_LEN = 512
START_SECONDS = 120
QUESTION: list[ChatCompletionMessageParam] = [{"role": "user", "content": "What is the capital of France?"}]
EXECUTABLE = shutil.which("headrace-llm", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")


class LLMServer:
    """One `headrace-llm serve`."""

    def __init__(self, path: Path, log: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as probe:
            self.port = int(probe.getsockname()[1])
        self._log = log
        assert EXECUTABLE is not None
        arguments = [EXECUTABLE, "serve", str(path), "--served-model-name", MODEL, "--port", str(self.port)]
        arguments += ["--max-model-len", str(MODEL_LEN), "--max-concurrent-requests", "4"]
        with log.open("wb") as output:
            self.process = subprocess.Popen(arguments, stdout=output, stderr=output)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def log(self) -> str:
        return self._log.read_text()

    def ready(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            assert self.process.poll() is None, self.log
            try:
                urllib.request.urlopen(f"{self.url}/health/ready", timeout=5).close()
            except (urllib.error.URLError, OSError):
                time.sleep(0.05)
            else:
                return
        pytest.fail(f"not ready within {START_SECONDS} s\n{self.log}")

    def running(self) -> float:
        with urllib.request.urlopen(f"{self.url}/metrics", timeout=5) as answer:
            lines = answer.read().decode().splitlines()
        return sum(float(line.split()[-1]) for line in lines if line.startswith("vllm:num_requests_running{"))

    def send(self, method: str, path: str, body: object = None) -> None:
        content = None if body is None else json.dumps(body).encode()
        with urllib.request.urlopen(urllib.request.Request(self.url + path, content, method=method), timeout=30):
            pass

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()


@pytest.fixture(scope="module")
def server(smollm2_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LLMServer]:
    server = LLMServer(smollm2_path, tmp_path_factory.mktemp("llm") / "log")
    server.ready()
    yield server
    server.stop()


@pytest.fixture(scope="module")
def client(server: LLMServer) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)


def test_chat_then_it_answers_the_question(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model=MODEL, messages=QUESTION, max_tokens=24, temperature=0)

    choice = answer.choices[0]
    assert "Paris" in (choice.message.content or "")
    assert choice.finish_reason in ("stop", "length")
    assert answer.usage is not None
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    assert 0 < answer.usage.completion_tokens <= 24


def test_embeddings_then_similar_texts_are_close(client: openai.OpenAI) -> None:
    texts = ["A cat sat on the mat.", "A cat lay on the mat.", "SELECT name FROM users WHERE id = 5;"]
    made = client.embeddings.create(model=MODEL, input=texts)
    first, second, other = (each.embedding for each in made.data)

    assert len(first) == 576
    assert math.hypot(*first) == pytest.approx(1, abs=1e-4)
    assert np.dot(first, second) > np.dot(first, other)
    assert made.usage.prompt_tokens == made.usage.total_tokens > len(texts)


def test_adapter_when_loaded_then_requests_name_it(server: LLMServer, client: openai.OpenAI, tmp_path: Path) -> None:
    def answer(model: str) -> str:
        made = client.chat.completions.create(model=model, messages=QUESTION, max_tokens=12, temperature=0)
        return made.choices[0].message.content or ""

    path = write_adapter(tmp_path / "adapter", 0)
    plain = answer(MODEL)
    server.send("POST", "/internal/v1/adapters", {"name": "pirate", "path": str(path)})
    with pytest.raises(urllib.error.HTTPError) as refused:
        server.send("POST", "/internal/v1/adapters", {"name": "none", "path": str(tmp_path / "none")})
    cards = {card.id: card.to_dict().get("parent") for card in client.models.list()}
    adapted = answer("pirate")
    server.send("DELETE", "/internal/v1/adapters/pirate")

    assert refused.value.code == 400
    assert cards == {MODEL: None, "pirate": MODEL}
    assert adapted != plain == answer(MODEL)
    with pytest.raises(openai.NotFoundError):
        answer("pirate")


def test_stream_then_it_is_the_same_as_the_whole_answer(client: openai.OpenAI) -> None:
    whole = client.chat.completions.create(model=MODEL, messages=QUESTION, max_tokens=16, temperature=0)
    chunks = list(
        client.chat.completions.create(
            model=MODEL,
            messages=QUESTION,
            max_tokens=16,
            temperature=0,
            stream=True,
            stream_options={"include_usage": True},
        )
    )

    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == whole.choices[0].message.content
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-2].choices[0].finish_reason == whole.choices[0].finish_reason
    assert chunks[-1].usage == whole.usage
    assert all(chunk.usage is None for chunk in chunks[:-1])


def test_completion_when_it_meets_a_stop_then_it_ends_before_it(client: openai.OpenAI) -> None:
    prompt = "One, two, three, four,"
    free = client.completions.create(model=MODEL, prompt=prompt, max_tokens=12, temperature=0)
    word = free.choices[0].text.split(",")[1]
    stopped = client.completions.create(model=MODEL, prompt=prompt, max_tokens=12, temperature=0, stop=word)

    assert stopped.choices[0].text == free.choices[0].text.partition(word)[0]
    assert stopped.choices[0].finish_reason == "stop"


def test_completion_when_it_is_seeded_then_it_is_repeatable(client: openai.OpenAI) -> None:
    texts = {
        client.completions.create(model=MODEL, prompt="Once", max_tokens=8, temperature=1, seed=5).choices[0].text
        for _ in range(2)
    }

    assert len(texts) == 1


def test_completion_when_top_p_is_0_then_it_is_greedy(client: openai.OpenAI) -> None:
    greedy = client.completions.create(model=MODEL, prompt="Once", max_tokens=12, temperature=0)
    nucleus = client.completions.create(model=MODEL, prompt="Once", max_tokens=12, temperature=2, top_p=0)

    assert nucleus.choices[0].text == greedy.choices[0].text


def test_prompts_when_several_then_each_is_answered_as_if_alone(
    client: openai.OpenAI,
) -> None:
    prompts = [f"The capital of {country} is" for country in ("France", "Italy", "Japan", "Spain", "Peru", "Chad")]
    alone = [client.completions.create(model=MODEL, prompt=each, max_tokens=6, temperature=0) for each in prompts]
    whole = client.completions.create(model=MODEL, prompt=prompts, max_tokens=6, temperature=0)
    streamed = dict.fromkeys(range(len(prompts)), "")
    for chunk in client.completions.create(model=MODEL, prompt=prompts, max_tokens=6, temperature=0, stream=True):
        streamed[chunk.choices[0].index] += chunk.choices[0].text

    texts = [each.choices[0].text for each in alone]
    assert [(choice.index, choice.text) for choice in whole.choices] == list(enumerate(texts))
    assert streamed == dict(enumerate(texts))
    assert whole.usage is not None
    assert whole.usage.total_tokens == sum(each.usage.total_tokens for each in alone if each.usage is not None)


def test_metrics_then_they_are_those_of_the_profile(server: LLMServer) -> None:
    with urllib.request.urlopen(f"{server.url}/metrics", timeout=5) as answer:
        typed = [line.split()[2] for line in answer.read().decode().splitlines() if line.startswith("# TYPE ")]
    names = {name.removesuffix("_total") for name in typed if not name.endswith("_created")}
    assert {name for name in names if not name.startswith("process_")} == set(LLM.metrics)


def test_stream_then_its_cursors_count_the_tokens(client: openai.OpenAI) -> None:
    """The text up to each cursor is that of so many tokens: that of a greedy answer which is no longer."""
    prompts, length, stop = ["One, two, three,", "The capital of France is"], 8, " five"
    texts = [[""] * len(prompts)]
    for limit in range(1, length + 1):
        whole = client.completions.create(model=MODEL, prompt=prompts, max_tokens=limit, temperature=0)
        texts.append([choice.text for choice in whole.choices])

    stream = client.completions.with_streaming_response.create(
        model=MODEL,
        prompt=prompts,
        max_tokens=length,
        temperature=0,
        stop=stop,
        stream=True,
        stream_options={"include_usage": True},
        extra_headers={CURSORS: "true"},
    )
    with stream as response:
        lines = [line for line in response.iter_lines() if line]

    prefix = ": headrace cursor="
    cursors, told, counted = [0] * len(prompts), [""] * len(prompts), 0
    for line in lines[:-2]:
        if line.startswith(prefix):
            before, cursors = cursors, [*map(int, line.removeprefix(prefix).split(","))]
            assert all(old <= new for old, new in zip(before, cursors, strict=True))
            continue
        (choice,) = json.loads(line.removeprefix("data: "))["choices"]
        told[choice["index"]] += choice["text"]
        assert told == [texts[count][index].partition(stop)[0] for index, count in enumerate(cursors)]
        counted += 1
    assert counted > length
    assert sum(cursors) == json.loads(lines[-2].removeprefix("data: "))["usage"]["completion_tokens"]


def test_stream_then_without_the_header_it_has_no_cursors(client: openai.OpenAI) -> None:
    stream = client.completions.with_streaming_response.create(model=MODEL, prompt="One,", max_tokens=4, stream=True)
    with stream as response:
        lines = [line for line in response.iter_lines() if line]
    assert all(line.startswith("data: ") for line in lines)


def test_models_then_the_served_one_is_listed(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == [MODEL]
    assert client.models.retrieve(MODEL).owned_by == "headrace"


def test_model_when_unknown_then_the_sdk_raises_not_found(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as raised:
        client.chat.completions.create(model="gpt-9", messages=QUESTION)

    assert (raised.value.code, raised.value.param) == ("model_not_found", "model")


def test_option_when_not_supported_then_sdk_raises_bad_request(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as raised:
        client.chat.completions.create(model=MODEL, messages=QUESTION, modalities=["text", "audio"])

    assert (raised.value.code, raised.value.param) == ("unsupported_parameter", "modalities")


def test_n_then_each_answer_is_a_choice(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model=MODEL, messages=QUESTION, n=2, temperature=0, max_tokens=4)

    assert [choice.index for choice in answer.choices] == [0, 1]
    assert len({choice.message.content for choice in answer.choices}) == 1
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 8


def test_prompt_when_too_long_then_the_error_has_the_length(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="the model length is 512 tokens") as raised:
        client.completions.create(model=MODEL, prompt="word " * MODEL_LEN, max_tokens=1)

    assert raised.value.code == "context_length_exceeded"


def test_requests_when_concurrent_then_each_gets_its_own_answer(server: LLMServer) -> None:
    async def ask_all() -> list[str]:
        async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none") as client:
            answers = await asyncio.gather(
                *(
                    client.completions.create(
                        model=MODEL, prompt=f"The capital of {country} is", max_tokens=4, temperature=0
                    )
                    for country in ("France", "Italy", "Japan", "France", "Italy", "Japan")
                )
            )
        return [answer.choices[0].text for answer in answers]

    texts = asyncio.run(ask_all())

    assert texts[:3] == texts[3:]
    assert len(set(texts)) == 3


def test_client_when_it_leaves_then_its_slot_is_free(server: LLMServer, client: openai.OpenAI) -> None:
    stream = client.completions.create(
        model=MODEL, prompt="Tell me", max_tokens=500, stream=True, extra_body={"ignore_eos": True}
    )
    next(iter(stream))
    assert server.running() == 1

    stream.close()

    deadline = time.monotonic() + 10
    while server.running():
        assert time.monotonic() < deadline, "the engine still generates for nobody"


def test_client_when_it_leaves_then_all_its_slots_are_free(server: LLMServer, client: openai.OpenAI) -> None:
    prompts, forever = ["Tell me", "Tell him", "Tell her"], {"ignore_eos": True}
    stream = client.completions.create(model=MODEL, prompt=prompts, max_tokens=500, stream=True, extra_body=forever)
    next(iter(stream))
    assert server.running() == 3

    stream.close()

    deadline = time.monotonic() + 10
    while server.running():
        assert time.monotonic() < deadline, "the engine still generates for nobody"


def test_sigterm_when_a_stream_runs_then_it_completes_and_exit_0(smollm2_path: Path, tmp_path: Path) -> None:
    server = LLMServer(smollm2_path, tmp_path / "log")
    try:
        server.ready()
        client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)
        stream = iter(
            client.completions.create(
                model=MODEL, prompt="Tell me", max_tokens=40, stream=True, extra_body={"ignore_eos": True}
            )
        )
        next(stream)
        server.process.terminate()
        *_, last = stream

        assert last.choices[0].finish_reason == "length"
        assert server.process.wait(timeout=20) == 0
        assert f"http://127.0.0.1:{server.port}/v1" in server.log  # what to try was said
    finally:
        server.stop()


def test_file_when_not_a_model_then_cause_and_exit_code(tmp_path: Path) -> None:
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"not a model")
    message = tmp_path / "termination"
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    assert EXECUTABLE is not None

    ended = subprocess.run(
        [EXECUTABLE, "serve", str(broken), "--port", str(port)],
        env={**os.environ, "HEADRACE_TERMINATION_MESSAGE_PATH": str(message)},
        check=False,
        timeout=60,
        capture_output=True,
    )

    assert ended.returncode == InvalidModel.exit_code
    assert "broken.gguf" in message.read_text()
    assert "\n" not in message.read_text()


def test_help_then_it_answers_without_loading_a_library() -> None:
    trace = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "headrace_llm.main", "--help"],
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
    ).stderr

    loaded = {line.rpartition("|")[2].strip() for line in trace.splitlines()}
    assert "argparse" in loaded
    assert not loaded & {"torch", "pydantic", "uvicorn", "nats", "asyncio"}
