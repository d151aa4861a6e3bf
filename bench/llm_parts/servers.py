"""A server of one contender: one process group, stopped while another one is measured."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from engines.contender import WORKERS
from engines.venvs import LLAMA_CPP, VLLM, python_of
from llm_parts.setting import THREADS, Setting

START_SECONDS = 300.0
"""vLLM compiles for a minute and a half on idle cores."""
NAME = "smollm2"
"""Of the model in requests."""
MODEL_LEN = 1024
CONCURRENT = 16


def free_port() -> int:
    """Return a free port of the loopback interface."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


class Server:
    """An OpenAI-compatible server. Entering returns once it answers; leaving ends its process group."""

    def __init__(
        self, name: str, command: Sequence[str | Path], port: int, variables: dict[str, str] | None = None
    ) -> None:
        self.name = name
        self.url = f"http://127.0.0.1:{port}"
        self._command = [str(part) for part in command]
        self._variables = variables or {}

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(  # ended in __exit__
            self._command,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "HF_HUB_OFFLINE": "1", **self._variables},
            process_group=0,  # the session stays: the scheduler shares the cores between sessions (`before_others`)
        )
        deadline = time.monotonic() + START_SECONDS
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self._signal(signal.SIGKILL)
                raise RuntimeError(f"{self.name} does not start: run {' '.join(self._command)} by hand")
            time.sleep(0.1)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._signal(signal.SIGKILL)
        self._process.wait()

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    def pause(self) -> None:
        """Stop the processes: idle threads may spin."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Continue the processes."""
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        os.killpg(self._process.pid, number)

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/v1/models", timeout=5) as answer:
                return bool(answer.status == 200)
        except (urllib.error.URLError, OSError):
            return False


def headrace_server(path: Path, *options: str) -> Server:
    """Return our server for a file or a directory."""
    port = free_port()
    return Server(
        "headrace",
        [
            *(Path(sys.executable).with_name("headrace-llm"), "serve", path, "--served-model-name", NAME),
            *("--port", str(port), "--threads", str(THREADS), "--max-model-len", str(MODEL_LEN)),
            *("--max-concurrent-requests", str(CONCURRENT), *options),
        ],
        port,
    )


def llama_cpp_server(setting: Setting) -> Server:
    """Return llama-cpp-python's server. It computes one request at a time."""
    port = free_port()
    return Server(
        "llama.cpp",
        [
            *(python_of(LLAMA_CPP), "-m", "llama_cpp.server", "--model", setting.file, "--model_alias", NAME),
            *("--port", str(port), "--n_ctx", str(MODEL_LEN)),
            *("--n_threads", str(THREADS), "--n_threads_batch", str(THREADS)),
            *("--interrupt_requests", "false"),  # by default a request ends the one before
        ],
        port,
    )


def vllm_server(setting: Setting) -> Server:
    """Return vLLM's server on the CPU, bfloat16, compiled as by default."""
    port = free_port()
    return Server(
        "vLLM",
        [
            *(python_of(VLLM), WORKERS / "serve_vllm.py", "serve", setting.directory, "--served-model-name", NAME),
            *("--port", str(port), "--dtype", "bfloat16", "--max-model-len", str(MODEL_LEN)),
            *("--max-num-seqs", str(CONCURRENT)),
        ],
        port,
        {
            "VLLM_CPU_KVCACHE_SPACE": "1",
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",
            "VLLM_NO_USAGE_STATS": "1",
            "OMP_NUM_THREADS": str(THREADS),
        },
    )
