"""The choice of the decoder."""

from __future__ import annotations

from headrace.serving.engine import Progress
from headrace_models.decoder import Decoder
from headrace_models.model_file import ModelFile


def load_decoder(file: ModelFile, *, threads: int, progress: Progress) -> Decoder:
    """Return a decoder with the model's weights. Raises InvalidModel, CannotStart."""
    progress("loading-torch", None)
    from headrace_models.torch_decoder import TorchDecoder  # noqa: PLC0415 - torch takes a second

    return TorchDecoder(
        file.gguf, file.config, threads=threads, progress=lambda percent: progress("loading-weights", percent)
    )
