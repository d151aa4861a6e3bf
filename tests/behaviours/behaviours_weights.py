"""Weights for an engine that nobody here wrote: random and tiny, so that its answers make no sense and come at once.

It is a script, too, which needs nothing of headrace: an image that has the library makes them by itself (see
`e2e/transformers.Dockerfile`).
"""

from __future__ import annotations

import sys
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast


def make_weights(directory: Path) -> None:
    """Write a Llama of one layer over bytes, as its library does. It has no end token: answers are as long as asked."""
    alphabet = ["<s>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    bytes_only = Tokenizer(models.BPE(vocab={token: index for index, token in enumerate(alphabet)}, merges=[]))
    bytes_only.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bytes_only.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bytes_only, bos_token="<s>")  # type: ignore[no-untyped-call]  # of the library
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
        eos_token_id=None,
    )
    LlamaForCausalLM(config).save_pretrained(directory)


if __name__ == "__main__":
    make_weights(Path(sys.argv[1]))
