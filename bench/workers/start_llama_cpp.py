"""A process of llama-cpp-python that prints its first token: `start_llama_cpp.py FILE THREADS QUESTION`."""

from __future__ import annotations

import sys

from llama_cpp import Llama

CONTEXT = 2048


def main(path: str, threads: str, question: str) -> None:
    """Load the model and print the first piece of the answer."""
    model = Llama(path, n_ctx=CONTEXT, n_threads=int(threads), n_threads_batch=int(threads), verbose=False)
    messages = [{"role": "user", "content": question}]
    for chunk in model.create_chat_completion(messages, max_tokens=1, temperature=0, stream=True):
        text = chunk["choices"][0]["delta"].get("content")
        if text:
            print(repr(text), flush=True)
            return


if __name__ == "__main__":
    main(*sys.argv[1:])
