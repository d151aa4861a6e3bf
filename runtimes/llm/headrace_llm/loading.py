"""The choice of the decoder: our native kernels, or torch where they cannot be built."""

from __future__ import annotations

import logging
from enum import StrEnum
from importlib.util import find_spec

from headrace.errors import CannotStart
from headrace.serving.engine import Progress
from headrace.store.client import Store
from headrace_models.decoder import Decoder
from headrace_models.kept_weights import KeptWeights, WeightStage
from headrace_models.model_file import ModelFile
from headrace_models.native.build import NoNativeLibrary
from headrace_models.native.packing import Packer, WeightType, pack
from headrace_models.native_decoder import NativeDecoder

log = logging.getLogger(__name__)


class DType(StrEnum):
    """In which precision the decoder computes."""

    AUTO = "auto"
    """In that of the file: quantised weights stay quantised."""
    FLOAT32 = "float32"
    """Exact to the reference implementation, and slower."""


def load_decoder(
    file: ModelFile, *, dtype: DType, threads: int, progress: Progress, store: Store | None = None
) -> Decoder:
    """Return a decoder with the model's weights, mapped from the store if one is given.

    Raises InvalidModel, CannotStart.
    """
    stage = WeightStage.LOADING

    def begin(begun: WeightStage) -> None:
        nonlocal stage
        stage = begun
        progress(stage, None)

    def loaded(percent: int) -> None:
        progress(stage, percent)

    weight_type = WeightType.FLOAT32 if dtype is DType.FLOAT32 else WeightType.STORED
    packer: Packer = pack
    if store is None:
        begin(stage)
    else:
        packer = KeptWeights(store, begin)
    try:
        decoder = NativeDecoder.load(
            file.weights, threads=threads, progress=loaded, weight_type=weight_type, packer=packer
        )
    except NoNativeLibrary as error:
        if find_spec("torch") is None:
            raise CannotStart(
                f"{error.message}, and torch is not installed, which would compute without them",
                hint=f"{error.hint}; or install headrace[torch]",
            ) from error
        log.error("computing with torch in float32, several times slower: %s", error)  # noqa: TRY400 - the cause is said
    else:
        log.info("computing with the native kernels for %s", decoder.kernels)
        return decoder
    progress("loading-torch", None)
    from headrace_models.torch_decoder import TorchDecoder  # noqa: PLC0415 - torch takes seconds and is not needed else

    return TorchDecoder(file.weights, threads=threads, progress=loaded)
