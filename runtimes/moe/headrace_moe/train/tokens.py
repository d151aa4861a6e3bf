"""The tokenizer of a trained model, and the corpus as tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from headrace_moe.train.corpus import Document

END = "<|endoftext|>"
"""Ends a document; id 0."""


def train_tokenizer(documents: Sequence[Document], vocabulary: int) -> Tokenizer:
    """Return byte-level pairs as GPT-2's (`tokenizer.ggml.pre` gpt-2), made from the training documents."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator((each.text for each in documents if not each.held_out), trainer)
    return tokenizer


@dataclass(frozen=True, slots=True)
class DomainTokens:
    """The documents of a domain one after another, each with its end: [tokens], int32."""

    domain: str
    training: torch.Tensor
    held_out: torch.Tensor


def encode(documents: Sequence[Document], tokenizer: Tokenizer) -> list[DomainTokens]:
    """Return the tokens of each domain, by name."""
    end = tokenizer.token_to_id(END)

    def joined(domain: str, *, held_out: bool) -> torch.Tensor:
        texts = [each.text for each in documents if each.domain == domain and each.held_out is held_out]
        ids = [token for each in tokenizer.encode_batch(texts) for token in (*each.ids, end)]
        return torch.tensor(ids, dtype=torch.int32)

    names = sorted({each.domain for each in documents})
    return [DomainTokens(name, joined(name, held_out=False), joined(name, held_out=True)) for name in names]


def training_batch(domains: Sequence[DomainTokens], *, seed: int, step: int, batch: int, sequence: int) -> torch.Tensor:
    """Return a step's sequences, [batch, sequence + 1]: a function of seed and step, each domain equally often."""
    generator = torch.Generator().manual_seed(seed * 1_000_003 + step)
    rows = []
    for index in range(batch):
        tokens = domains[(step * batch + index) % len(domains)].training
        start = int(torch.randint(len(tokens) - sequence, (1,), generator=generator))
        rows.append(tokens[start : start + sequence + 1])
    return torch.stack(rows).long()


def held_out_batches(tokens: torch.Tensor, *, sequence: int, batch: int, most: int) -> list[torch.Tensor]:
    """Return evenly spaced sequences of held-out text, at most `most`: each [<= batch, sequence + 1]."""
    count = min(most, (len(tokens) - 1) // sequence)
    starts = torch.linspace(0, len(tokens) - 1 - sequence, max(count, 1)).long().tolist()
    rows = torch.stack([tokens[start : start + sequence + 1] for start in starts]).long()
    return list(torch.split(rows, batch))
