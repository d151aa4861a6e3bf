"""A model's file after all checks that need no decoder and no torch, so that an invalid file is reported early."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from headrace.errors import InvalidModel
from headrace_models.config import DecoderConfig
from headrace_models.gguf import GGUFFile
from headrace_models.gguf_config import gguf_config
from headrace_models.gguf_weights import gguf_weights
from headrace_models.vocabulary import Vocabulary
from headrace_models.weights import ModelWeights


@dataclass(frozen=True, slots=True)
class ModelFile:
    """An open file of a model that this runtime serves."""

    weights: ModelWeights
    vocabulary: Vocabulary
    chat_template: object
    """Jinja source as in the file, unchecked; None: the model has none."""

    @property
    def path(self) -> Path:
        """Return the file, for messages."""
        return self.weights.path

    @property
    def config(self) -> DecoderConfig:
        """Return the shape of the model."""
        return self.weights.config

    @classmethod
    def open(cls, path: Path) -> ModelFile:
        """Open and check the file. Raises InvalidModel."""
        gguf = GGUFFile(path)
        config, vocabulary = gguf_config(gguf), Vocabulary.of(gguf)
        if len(vocabulary.tokens) != config.vocabulary:
            # A token without a row would break the step of every request in it; a row without a token has no text.
            raise InvalidModel(
                f"{path.name} has {len(vocabulary.tokens)} tokens, and {config.vocabulary} rows of embedding",
                hint="Convert the model again",
            )
        return cls(gguf_weights(gguf, config), vocabulary, gguf.metadata.get("tokenizer.chat_template"))
