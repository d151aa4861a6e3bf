"""A model's file after all checks that need no weights and no torch, so that an invalid file is reported early."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from headrace.errors import InvalidModel
from headrace_models.config import DecoderConfig
from headrace_models.gguf import GGUFFile
from headrace_models.vocabulary import Vocabulary


@dataclass(frozen=True, slots=True)
class ModelFile:
    """An open file of a model that this runtime serves."""

    gguf: GGUFFile
    config: DecoderConfig
    vocabulary: Vocabulary

    @classmethod
    def open(cls, path: Path) -> ModelFile:
        """Open and check the file. Raises InvalidModel."""
        gguf = GGUFFile(path)
        config, vocabulary = DecoderConfig.of(gguf), Vocabulary.of(gguf)
        if len(vocabulary.tokens) != config.vocabulary:
            # A token without a row would break the step of every request in it; a row without a token has no text.
            raise InvalidModel(
                f"{path.name} has {len(vocabulary.tokens)} tokens, and {config.vocabulary} rows of embedding",
                hint="Convert the model again",
            )
        return cls(gguf, config, vocabulary)
