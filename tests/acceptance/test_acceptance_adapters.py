"""LoRA adapters that PEFT wrote, from `spec.runtime.llm.adapters` to answers of the openai SDK."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import peft
import pytest
import torch
from acceptance.acceptance_instance import Instance
from behaviours.behaviours_world import until
from models.family_models import FAMILY_MODELS, written
from transformers import AutoTokenizer, PreTrainedModel

pytestmark = pytest.mark.acceptance

PROMPT = [5, 1, 17, 3, 40, 8, 2, 21, 9, 14]
MAX_TOKENS = 12
NAME = "tiny"
SCALING = {"minReplicas": 0, "maxReplicas": 1, "idleTimeoutSeconds": 1}


def with_adapter(directory: Path, seed: int, **config: int) -> Any:
    """Write a LoRA adapter of random weights for the tiny model, and return PEFT's model with it."""
    model: PreTrainedModel = FAMILY_MODELS["llama"].make()
    torch.manual_seed(seed)
    if config:
        model = model.__class__(model.config.__class__(**{**model.config.to_dict(), **config}))
    adapted = peft.get_peft_model(model, peft.LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "up_proj"]))
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_" in name:
                parameter.normal_(0, 0.2)
    adapted.save_pretrained(str(directory))
    return adapted.train(mode=False)


def continuation(model: Any) -> list[int]:
    """Return the greedy continuation as transformers computes it, the whole sequence anew for each token."""
    tokens = list(PROMPT)
    with torch.inference_mode():
        for _ in range(MAX_TOKENS):
            tokens.append(int(model(torch.tensor([tokens])).logits[0, -1].argmax()))
    return tokens[len(PROMPT) :]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("adapters")


@pytest.fixture(scope="module")
def expected(folder: Path) -> dict[str, str]:
    """The continuation by each public name."""
    base = FAMILY_MODELS["llama"].make()
    written(base, folder / "base")
    models: dict[str, Any] = {NAME: base.train(mode=False)}
    models |= {f"{NAME}:{name}": with_adapter(folder / name, seed) for seed, name in enumerate("ab")}
    tokenizer = AutoTokenizer.from_pretrained(folder / "base")
    return {name: str(tokenizer.decode(continuation(each), skip_special_tokens=True)) for name, each in models.items()}


def manifest(folder: Path, *adapters: str, **spec: Any) -> dict[str, Any]:
    listed = [{"name": Path(each).name, "uri": f"file://{folder}/{each}/"} for each in adapters]
    return {
        "apiVersion": "headrace.dev/v1alpha1",
        "kind": "ModelDeployment",
        "metadata": {"name": NAME},
        "spec": {
            "model": {"source": {"uri": f"file://{folder}/base/"}},
            "runtime": {"llm": {"maxModelLen": 64, "adapters": listed}},
            "scaling": SCALING,
            **spec,
        },
    }


@pytest.fixture
def tiny(instance: Instance, folder: Path, expected: dict[str, str]) -> Iterator[Instance]:
    """The tiny model with the adapters a and b, at zero."""
    del expected
    instance.apply(manifest(folder, "a", "b"))
    instance.wait(NAME, "Idle")
    yield instance
    instance.headrace("delete", f"mdep/{NAME}")


def answer(client: openai.OpenAI, model: str) -> str:
    made = client.completions.create(
        model=model, prompt=PROMPT, temperature=0, max_tokens=MAX_TOKENS, extra_body={"ignore_eos": True}
    )
    assert made.model == model
    return made.choices[0].text


def test_adapters_when_at_zero_then_woken_and_answer_as_in_peft(tiny: Instance, expected: dict[str, str]) -> None:
    """The first request names an adapter; each name gives the answer of its own weights."""
    client = openai.OpenAI(base_url=tiny.url, api_key="none", max_retries=0)
    parents = {card.id: (card.model_extra or {}).get("parent") for card in client.models.list()}
    assert {name: parents[name] for name in expected} == {NAME: None, f"{NAME}:a": NAME, f"{NAME}:b": NAME}
    assert {name: answer(client, name) for name in reversed(expected)} == expected
    assert len(set(expected.values())) == len(expected)
    assert [each["reason"] for each in tiny.get(NAME)["status"]["adapters"]] == ["Cached", "Cached"]
    with pytest.raises(openai.NotFoundError):
        answer(client, f"{NAME}:c")


def test_adapter_when_removed_then_a_revision_without_its_name(tiny: Instance, folder: Path) -> None:
    client = openai.OpenAI(base_url=tiny.url, api_key="none", max_retries=0)
    tiny.apply(manifest(folder, "b"))
    until(lambda: f"{NAME}:a" not in {card.id for card in client.models.list()}, "the adapter is gone")
    assert f"{NAME}:b" in {card.id for card in client.models.list()}


def test_adapter_when_its_files_are_absent_then_ready_names_it(tiny: Instance, folder: Path) -> None:
    tiny.apply(manifest(folder, "a", "absent"))
    condition = tiny.wait(NAME, "SourceUnreachable")
    assert "adapter absent: " in condition["message"]
    assert f"{folder}/absent has 0 files" in condition["message"]


def test_adapter_when_of_another_base_then_ready_names_it(tiny: Instance, folder: Path) -> None:
    with_adapter(folder / "wide", 3, hidden_size=96)
    tiny.apply(manifest(folder, "wide", scaling=None, replicas=1))
    condition = tiny.wait(NAME, "CrashLoop")
    assert f"adapter {NAME}:wide: " in condition["message"]
    assert "lora_A" in condition["message"]


def test_adapter_when_its_name_is_taken_then_not_accepted(tiny: Instance, folder: Path) -> None:
    other = manifest(folder)
    other["metadata"]["name"] = "other"
    other["spec"]["model"]["name"] = f"{NAME}:a"
    tiny.apply(other)
    try:
        condition = tiny.wait("other", "NameTaken", "Accepted")
        assert f"{NAME}:a" in condition["message"]
    finally:
        tiny.headrace("delete", "mdep/other")
