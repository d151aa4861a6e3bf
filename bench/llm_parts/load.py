"""Load by guidellm, an independent load generator."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engines.venvs import CLIENTS, python_of
from llm_parts.servers import NAME
from llm_parts.setting import Setting

PROMPT_TOKENS = 128
ANSWER_TOKENS = 64


@dataclass(frozen=True, slots=True)
class Outcome:
    """What guidellm measured in one run."""

    successful: int
    failed: int
    answer_tokens: float
    """Of one answer, on average."""
    tokens_per_second: float
    """Of the answers, all users together."""
    first_token_milliseconds: float
    """The median."""


def run_guidellm(setting: Setting, url: str, *, users: int, requests: int, seed: int, model: str = NAME) -> Outcome:
    """Let `users` users send requests, each after the answer to the last one. Prompts differ by seed."""
    backend = f"kind=openai_http,target={url},model={model},request_format=/v1/completions,validate_backend=false"
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        command = [
            *(python_of(CLIENTS).with_name("guidellm"), "run", "--backend", backend),
            *("--profile", f"kind=concurrent,streams={users}", "--constraint", f"kind=max_requests,count={requests}"),
            *("--tokenizer", f"kind=huggingface_auto,model={setting.directory}", "--seed", f"kind=static,value={seed}"),
            "--data",
            f"kind=synthetic_text,prompt_tokens={PROMPT_TOKENS},output_tokens={ANSWER_TOKENS}",
            *("--output", f"kind=json,path={report}", "--disable-console"),
        ]
        done = subprocess.run(
            [str(part) for part in command],
            env={**os.environ, "HF_HUB_OFFLINE": "1"},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"guidellm ended with {done.returncode}: {done.stderr[-2000:] or done.stdout[-2000:]}")
        metrics: dict[str, Any] = json.loads(report.read_text())["benchmarks"][0]["metrics"]
    totals = metrics["request_totals"]
    return Outcome(
        totals["successful"],
        totals["total"] - totals["successful"],
        metrics["output_token_count"]["successful"]["mean"],
        metrics["output_tokens_per_second"]["successful"]["mean"],
        metrics["time_to_first_token_ms"]["successful"]["median"],
    )
