"""An engine that nobody here wrote, behind the gateway: `transformers serve`, on weights made for the test.

The weights are random and tiny, so the answers make no sense and come at once; what counts is that the engine knows
nothing of headrace, and refuses any name of its model but its own.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import openai
import pytest
from acceptance.acceptance_instance import Instance
from behaviours.behaviours_world import until
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

pytestmark = pytest.mark.acceptance
NAME = "brought"
PUBLIC_NAME = "somebody-elses"
SECONDS = 180.0
"""Its start is mostly the import of its libraries."""


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama of one layer over bytes, as its library writes it."""
    directory = tmp_path_factory.mktemp("weights")
    alphabet = ["<s>", "</s>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    bytes_only = Tokenizer(models.BPE(vocab={token: index for index, token in enumerate(alphabet)}, merges=[]))
    bytes_only.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bytes_only.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bytes_only, bos_token="<s>", eos_token="</s>")  # type: ignore[no-untyped-call]  # of the library
    tokenizer.chat_template = "{% for message in messages %}{{ message.content }}{% endfor %}"
    tokenizer.save_pretrained(directory)
    config = LlamaConfig(
        vocab_size=len(alphabet),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=256,
        bos_token_id=0,
        eos_token_id=1,
    )
    LlamaForCausalLM(config).save_pretrained(directory)
    return directory


@pytest.fixture(scope="module")
def brought(tmp_path_factory: pytest.TempPathFactory, weights: Path) -> Iterator[Instance]:
    instance = Instance(tmp_path_factory.mktemp("b")).start()
    engine = {
        "image": "an-engine:1",
        "command": [str(Path(sys.executable).parent / "transformers"), "serve", str(weights)],
        "args": ["--device", "cpu", "--host", "$(HEADRACE_POD_IP)", "--port", "8000"],
        "modelName": str(weights),
        "maxConcurrentRequests": 2,
    }
    instance.apply(
        {
            "apiVersion": "headrace.dev/v1alpha1",
            "kind": "ModelDeployment",
            "metadata": {"name": NAME},
            "spec": {
                "model": {"name": PUBLIC_NAME},
                "runtime": {"type": "Container", "container": engine},
                "scaling": {"maxReplicas": 1, "idleTimeoutSeconds": 3},
                "template": {"env": [{"name": "HF_HUB_OFFLINE", "value": "1"}]},
            },
        }
    )
    yield instance
    assert instance.stop() == 0, instance.said()


def test_brought_engine_when_asked_at_zero_then_it_is_woken_answers_streams_and_rests_again(brought: Instance) -> None:
    brought.wait(NAME, "Idle")
    asked = openai.OpenAI(base_url=brought.url, api_key="none", timeout=SECONDS, max_retries=0).chat.completions

    answer = asked.create(model=PUBLIC_NAME, messages=[{"role": "user", "content": "hello"}], max_tokens=4)
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 4

    with asked.create(
        model=PUBLIC_NAME, messages=[{"role": "user", "content": "hello"}], max_tokens=4, stream=True
    ) as stream:
        ends = [choice.finish_reason for chunk in stream for choice in chunk.choices]
    assert ends[-1] == "length"

    brought.wait(NAME, "Running")
    status = brought.get("mdep", NAME)["status"]
    assert status["capabilities"] == []
    assert {each["type"]: each["reason"] for each in status["conditions"]}["ModelCached"] == "NoSource"
    assert status["readyReplicas"] == 1

    brought.wait(NAME, "Idle")
    until(lambda: not brought.pids("transformers"), "it has ended")


def test_brought_engine_when_it_has_no_command_then_it_is_refused_because_no_image_is_run_here(
    brought: Instance,
) -> None:
    manifest = brought.get("mdep", NAME)
    engine = {**manifest["spec"]["runtime"]["container"]}
    del engine["command"]
    spec = {**manifest["spec"], "model": {"name": "other"}, "runtime": {"type": "Container", "container": engine}}
    brought.apply({**manifest, "metadata": {"name": "without-command"}, "spec": spec, "status": {}})
    condition = brought.wait("without-command", "InvalidSpec", "Accepted")
    assert "spec.runtime.container.command" in condition["message"]
