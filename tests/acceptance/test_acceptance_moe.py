"""The mixture of experts that the checkout has, served from zero with an expert cache, as examples/moe.yaml says."""

from __future__ import annotations

from pathlib import Path

import openai
import pytest
import yaml
from acceptance.acceptance_instance import Instance

pytestmark = pytest.mark.acceptance
EXAMPLES = Path(__file__).parents[2] / "examples"
MODEL = EXAMPLES / "models/headrace-moe-6x16.Q8_0.gguf"


def test_moe_when_at_zero_then_cached_and_resident_answer_alike(instance: Instance) -> None:
    cached = yaml.safe_load((EXAMPLES / "moe.yaml").read_text())
    cached["spec"]["model"]["source"]["uri"] = f"file://{MODEL}"
    resident = yaml.safe_load(yaml.safe_dump(cached))
    resident["metadata"]["name"] = resident["spec"]["model"]["name"] = "resident"
    resident["spec"]["runtime"]["moe"].pop("expertCache")
    answers = []
    for manifest in (cached, resident):
        instance.apply(manifest)
        instance.wait(manifest["metadata"]["name"], "Idle")
        client = openai.OpenAI(base_url=instance.url, api_key="x", max_retries=0, timeout=60)
        answer = client.completions.create(
            model=manifest["spec"]["model"]["name"], prompt="def main(self):\n    ", max_tokens=24, temperature=0
        )
        answers.append(answer.choices[0].text)
        instance.headrace("delete", f"mdep/{manifest['metadata']['name']}")
    assert answers[0] == answers[1]
    assert answers[0].strip()
