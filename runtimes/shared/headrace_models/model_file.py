"""A model's file or directory after all checks that need no decoder and no torch: an invalid one is reported early."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from headrace.errors import InvalidModel
from headrace_models.config import DecoderConfig
from headrace_models.gguf import GGUFFile
from headrace_models.gguf_config import gguf_config
from headrace_models.gguf_vocabulary import gguf_vocabulary
from headrace_models.gguf_weights import gguf_weights
from headrace_models.hf_config import hf_config
from headrace_models.hf_vocabulary import MAX_SETTINGS_BYTES, hf_chat_template, hf_vocabulary
from headrace_models.hf_weights import hf_weights, stored_tensors
from headrace_models.json_file import read_object
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
        """Open and check a GGUF file, or a directory that transformers wrote. Raises InvalidModel."""
        return _directory(path) if path.is_dir() else _gguf(path)


def _gguf(path: Path) -> ModelFile:
    file = GGUFFile(path)
    config, vocabulary = gguf_config(file), gguf_vocabulary(file)
    if len(vocabulary.tokens) != config.vocabulary:
        # A token without a row would break the step of every request in it; a row without a token has no text.
        raise InvalidModel(
            f"{path.name} has {len(vocabulary.tokens)} tokens, and {config.vocabulary} rows of embedding",
            hint="Convert the model again",
        )
    return ModelFile(gguf_weights(file, config), vocabulary, file.metadata.get("tokenizer.chat_template"))


def _directory(path: Path) -> ModelFile:
    settings = read_object(path / "config.json", MAX_SETTINGS_BYTES)
    hf_config("config.json", settings, has_head=False)  # an unsupported family is named before anything else is read
    stored = stored_tensors(path)
    config = hf_config("config.json", settings, has_head="lm_head.weight" in stored)
    vocabulary = hf_vocabulary(path, settings, config.vocabulary)
    return ModelFile(hf_weights(path, config, stored), vocabulary, hf_chat_template(path))
