"""Prompts are those of transformers' `apply_chat_template`, and a template that fails refuses chat and nothing else."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import yaml
from llm_runtime.llm_requests import generate
from models.model_files import GGUFModel
from transformers import PreTrainedTokenizerFast

from headrace.serving.engine import Chat, ChatMessage, StopConditions
from headrace.serving.errors import InvalidRequest
from headrace_llm.engine import LLMEngine
from headrace_models.model_file import ModelFile
from headrace_models.tokenizer import ModelTokenizer

TEMPLATES: dict[str, str] = yaml.safe_load(Path(__file__).with_name("templates.yaml").read_text())
HI = ChatMessage("user", "Hi!")
CONVERSATIONS = {
    "one turn": [HI],
    "system": [ChatMessage("system", "Be brief."), HI],
    "many turns": [
        ChatMessage("system", "Be brief."),
        HI,
        ChatMessage("assistant", "<think>\nwell\n</think>\n\nHello, what is x?"),
        ChatMessage("user", "Why\nnot? "),
    ],
    "no system": [HI, ChatMessage("assistant", "Hello."), ChatMessage("user", "x y")],
    "answer last": [HI, ChatMessage("assistant", "  Hello  ")],
    "names": [ChatMessage("user", "I am Ann", name="Ann"), ChatMessage("assistant", "Hi"), ChatMessage("user", "Ben?")],
    "text of all kinds": [ChatMessage("user", "é 日本 🙂 <b>&amp;</b> \"q\" 'a' \\n\t</s> {{ x }} {% y %}")],
    "empty": [ChatMessage("user", "")],
}


def ours_with(template: Any, path: Path) -> ModelTokenizer:
    names = {"tokenizer.ggml.padding_token_id": 258, "tokenizer.ggml.unknown_token_id": 257}
    model = GGUFModel({"tokenizer.chat_template": template, **names})
    return ModelTokenizer(ModelFile.open(model.write(path / "model.gguf")))


def theirs_with(template: str, ours: ModelTokenizer) -> Any:
    make: Any = PreTrainedTokenizerFast
    return make(
        tokenizer_object=ours._tokenizer,
        chat_template=template,
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<s>",
        pad_token="</s>",
    )


@pytest.mark.parametrize("name", TEMPLATES)
def test_template_when_rendered_then_the_prompt_is_transformers(name: str, tmp_path: Path) -> None:
    ours = ours_with(TEMPLATES[name], tmp_path)
    theirs = theirs_with(TEMPLATES[name], ours)
    for messages in CONVERSATIONS.values():
        turns = [{k: v for k, v in asdict(message).items() if k in ("role", "content", "name")} for message in messages]
        fault = ""
        try:
            expected = theirs.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
        except Exception as error:  # noqa: BLE001 - whatever a template fails by
            expected, fault = None, str(error)
        if expected is None:
            with pytest.raises(InvalidRequest) as raised:
                ours.encode_chat(Chat(tuple(messages)))
            assert (raised.value.param, raised.value.http_status) == ("messages", 400)
            assert fault in raised.value.message or "namespace" in fault
        else:
            assert ours._template.render(Chat(tuple(messages))) == expected
            ids = theirs.apply_chat_template(turns, add_generation_prompt=True, tokenize=True, return_dict=False)
            assert ours.encode_chat(Chat(tuple(messages))) == ids


def test_templates_then_each_is_rendered_at_least_once(tmp_path: Path) -> None:
    """What only ever fails would compare nothing."""
    assert len(TEMPLATES) >= 30
    failing = set()
    for name, template in TEMPLATES.items():
        ours = ours_with(template, tmp_path)
        for messages in CONVERSATIONS.values():
            try:
                ours.encode_chat(Chat(tuple(messages)))
            except InvalidRequest:
                continue
            break
        else:
            failing.add(name)
    assert failing == {
        "an attribute of what is not there",
        "text and a number",
        "beyond the end",
        "a private name in a namespace",
        "out of the sandbox",
        "into the list of messages",
    }


def test_template_when_it_raises_then_its_words_reach_the_client(tmp_path: Path) -> None:
    ours = ours_with("{{ raise_exception('Only user turns are allowed') }}", tmp_path)
    with pytest.raises(InvalidRequest, match="template refused: Only user turns are allowed"):
        ours.encode_chat(Chat((HI,)))


BROKEN = {
    "syntax": ("{% for m in messages %}\n{{ m.content }", r"is broken: line 2: .*Use /v1/completions"),
    "unknown tag": ("{% teleport %}", "is broken: line 1: .*teleport"),
    "unknown filter": ("{{ 'x' | teleport }}", "is broken: .*teleport"),
    "unclosed generation block": ("{% generation %}x", "is broken"),
    "break across": ("{% for m in 'a' %}{% generation %}{% break %}{% endgeneration %}{% endfor %}", "is broken"),
    "never compiles": ("{{" + "(" * 5000 + ")" * 5000 + "}}", "is broken"),
    "error when rendered": ("{{ 1 // 0 }}", "failed on this conversation: .*zero"),
    "endless recursion": ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "failed on .*recursion"),
    "wrong method": ("{{ none.strip() }}", "failed on this conversation"),
    "too much": ("{% for i in range(10 ** 9) %}x{% endfor %}", "failed on this conversation: .*[Rr]ange"),
    "none": (None, "has no chat template. Use /v1/completions"),
    "not a text": (7, "has no chat template. Use /v1/completions"),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
async def test_template_when_it_fails_then_only_chat_is_refused(name: str, tmp_path: Path) -> None:
    template, said = BROKEN[name]
    file = ModelFile.open(GGUFModel({"tokenizer.chat_template": template}).write(tmp_path / "model.gguf"))
    engine = LLMEngine.load_model(file, max_model_len=64, max_concurrent=1, threads=1, progress=lambda *_: None)
    for _ in range(2):
        with pytest.raises(InvalidRequest, match=said) as raised:
            engine.encode_chat(Chat((HI,)))
        assert (raised.value.param, raised.value.http_status) == ("messages", 400)
    stop = StopConditions(max_tokens=3, ignore_eos=True)
    assert len([delta async for delta in generate(engine, engine.encode("Hi"), stop)]) == 3
    await engine.close()
