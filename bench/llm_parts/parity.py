"""lm-eval through /v1/completions against lm-eval's own transformers, with the same weights in float32.

Two small tasks that are made here: multiple choice by log likelihood, and rolling perplexity of the documentation.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from bars import Bar
from engines.venvs import CLIENTS, python_of
from llm_parts.servers import MODEL_LEN, NAME, Server, headrace_server
from llm_parts.setting import Setting

ROOT = Path(__file__).resolve().parents[2]
QUESTIONS = 32
CHOICES = 4
TEXTS = 4
TEXT_CHARACTERS = 6000
"""Longer than a window of the model: the perplexity rolls."""
WINDOW = 512
_CLIENT_TOKENS = 2
"""lm-eval takes these off `max_length` through an API: the token to be generated and the prefix."""
TASKS = {
    "sums": """\
task: sums
dataset_path: json
dataset_kwargs: {data_files: {test: FOLDER/sums.jsonl}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{question}}"
doc_to_choice: choices
doc_to_target: label
metric_list: [{metric: acc}, {metric: acc_norm}]
""",
    "documentation": """\
task: documentation
dataset_path: json
dataset_kwargs: {data_files: {test: FOLDER/documentation.jsonl}}
test_split: test
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{text}}"
metric_list: [{metric: word_perplexity}, {metric: bits_per_byte}]
""",
}


def measure(setting: Setting) -> list[Bar]:
    """Return the bars: metrics of multiple choice that differ, and how far the others are apart.

    The tolerance is that of float32 sums in another order: 1e-4 of the perplexity and of each log likelihood, which is
    that of a choice (a few tokens) or of a text (thousands).
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _write_tasks(folder)
        with headrace_server(setting.directory, "--dtype", "float32") as server:
            ours = _run(folder, "ours", *_through(server, setting))
        model = f"pretrained={setting.directory},dtype=float32,max_length={WINDOW}"
        reference = _run(folder, "reference", "--model", "hf", "--model_args", model, "--device", "cpu")
    for task, metrics in reference.results.items():
        print(f"lm-eval {task}: transformers {metrics}, headrace {ours.results[task]}", flush=True)
    wrong = sum(abs(ours.results["sums"][metric] - value) > 1e-9 for metric, value in reference.results["sums"].items())
    apart = max(
        abs(ours.results["documentation"][metric] / value - 1)
        for metric, value in reference.results["documentation"].items()
    )
    pairs = list(zip(ours.likelihoods, reference.likelihoods, strict=True))
    farthest = max(pairs, key=lambda pair: abs(pair[0] - pair[1]))
    print(
        f"lm-eval: {len(pairs)} log likelihoods, those farthest apart {farthest[0]:.4f} and {farthest[1]:.4f}",
        flush=True,
    )
    return [
        Bar("lm-eval-parity-choices", wrong, 0, ""),
        Bar("lm-eval-parity-perplexity", apart, 1e-4, ""),
        Bar("lm-eval-parity-likelihoods", max(abs(one / other - 1) for one, other in pairs), 1e-4, ""),
    ]


class Report:
    """What one run of lm-eval wrote."""

    def __init__(self, folder: Path) -> None:
        (path,) = folder.rglob("results_*.json")
        found: dict[str, dict[str, Any]] = json.loads(path.read_text())["results"]
        self.results = {
            task: {
                key.removesuffix(",none"): value
                for key, value in metrics.items()
                if isinstance(value, float) and "stderr" not in key and key.endswith(",none")
            }
            for task, metrics in found.items()
        }
        self.likelihoods: list[float] = []
        """Of each choice and each text, in the order of the tasks."""
        for samples in sorted(folder.rglob("samples_*.jsonl")):
            documents = sorted(map(json.loads, samples.read_text().splitlines()), key=lambda each: each["doc_id"])
            self.likelihoods += [_first_number(answer) for each in documents for answer in each["resps"]]


def _first_number(value: Any) -> float:
    """Return the likelihood in a response: nested, before whether it is the greedy choice."""
    return _first_number(value[0]) if isinstance(value, list) else float(value)


def _through(server: Server, setting: Setting) -> list[str]:
    arguments = (
        f"model={NAME},base_url={server.url}/v1/completions,tokenizer={setting.directory},tokenizer_backend=huggingface,"
        f"tokenized_requests=True,num_concurrent=4,max_length={WINDOW + _CLIENT_TOKENS},timeout=600"
    )
    return ["--model", "local-completions", "--model_args", arguments]


def _run(folder: Path, name: str, *model: str) -> Report:
    output = folder / name
    command = [
        *(python_of(CLIENTS), "-m", "lm_eval", *model, "--tasks", ",".join(TASKS), "--include_path", folder),
        *("--output_path", output, "--log_samples", "--batch_size", "1"),
    ]
    done = subprocess.run(
        [str(part) for part in command],
        env={**os.environ, "HF_HUB_OFFLINE": "1", "HF_DATASETS_CACHE": str(folder / "datasets")},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"lm-eval ended with {done.returncode}: {done.stderr[-3000:]}")
    return Report(output)


def _write_tasks(folder: Path) -> None:
    assert WINDOW + _CLIENT_TOKENS < MODEL_LEN
    for name, text in TASKS.items():
        (folder / f"{name}.yaml").write_text(text.replace("FOLDER", str(folder)))
    chance = random.Random(0)
    with (folder / "sums.jsonl").open("w") as file:
        for _ in range(QUESTIONS):
            first, second = chance.randrange(10, 90), chance.randrange(10, 90)
            choices = chance.sample(range(20, 180), CHOICES - 1)
            label = chance.randrange(CHOICES)
            choices.insert(label, first + second)
            question = f"The sum of {first} and {second} is"
            file.write(json.dumps({"question": question, "choices": [str(each) for each in choices], "label": label}))
            file.write("\n")
    pages = sorted((ROOT / "docs").rglob("*.md"))
    texts = [page.read_text()[:TEXT_CHARACTERS] for page in pages]
    with (folder / "documentation.jsonl").open("w") as file:
        for text in [each for each in texts if len(each) == TEXT_CHARACTERS][:TEXTS]:
            file.write(json.dumps({"text": text}) + "\n")
