"""Loading of a model: the choice of its decoder, in a thread that a server starts before its own imports."""

from __future__ import annotations

import logging
import threading
from concurrent.futures import Future
from enum import StrEnum
from pathlib import Path

from headrace.serving.engine import Progress
from headrace_models.decoder import Decoder
from headrace_models.model_file import ModelFile
from headrace_models.native.build import NoNativeLibrary
from headrace_models.native.packing import WeightType
from headrace_models.native_decoder import NativeDecoder

log = logging.getLogger(__name__)


class DType(StrEnum):
    """In which precision the decoder computes."""

    AUTO = "auto"
    """In that of the file: quantised weights stay quantised."""
    FLOAT32 = "float32"
    """Exact to the reference implementation, and slower."""


class ModelLoading:
    """A model that a thread loads: reading and packing take no part of the interpreter's time that imports need.

    The thread is a daemon: a process that must stop does not wait for it.
    """

    def __init__(self, path: Path, *, dtype: DType, threads: int) -> None:
        self._lock = threading.Lock()
        """Guards the next two."""
        self._stage: tuple[str, int | None] = ("reading-model", None)
        self._listener: Progress | None = None
        self._file: Future[ModelFile] = Future()
        self._decoder: Future[Decoder] = Future()
        self._thread = threading.Thread(target=self._run, args=(path, dtype, threads), name="load-model", daemon=True)
        self._thread.start()

    def report_to(self, listener: Progress) -> None:
        """Report the present stage and all later ones."""
        with self._lock:
            self._listener = listener
            listener(*self._stage)

    def file(self) -> ModelFile:
        """Wait for the open file. Raises InvalidModel."""
        return self._file.result()

    def decoder(self) -> Decoder:
        """Wait for the decoder. Raises InvalidModel, CannotStart."""
        return self._decoder.result()

    def join(self) -> None:
        """Wait for the thread: a normal exit of the interpreter must not interrupt it in a library's native code."""
        self._thread.join()

    def _run(self, path: Path, dtype: DType, threads: int) -> None:
        waiting: Future[ModelFile] | Future[Decoder] = self._file
        try:
            file = ModelFile.open(path)
            self._file.set_result(file)
            waiting = self._decoder
            self._decoder.set_result(load_decoder(file, dtype=dtype, threads=threads, progress=self._progress))
        except Exception as error:  # noqa: BLE001 - carried to who waits, whatever it is
            waiting.set_exception(error)

    def _progress(self, stage: str, percent: int | None) -> None:
        with self._lock:
            self._stage = (stage, percent)
            if self._listener is not None:
                self._listener(stage, percent)


def load_decoder(file: ModelFile, *, dtype: DType, threads: int, progress: Progress) -> Decoder:
    """Return a decoder with the model's weights. Raises InvalidModel, CannotStart."""

    def loaded(percent: int) -> None:
        progress("loading-weights", percent)

    weight_type = WeightType.FLOAT32 if dtype is DType.FLOAT32 else WeightType.STORED
    try:
        return NativeDecoder.load(file.weights, threads=threads, progress=loaded, weight_type=weight_type)
    except NoNativeLibrary as error:
        log.warning("computing with torch in float32, several times slower: %s", error)
    progress("loading-torch", None)
    from headrace_models.torch_decoder import TorchDecoder  # noqa: PLC0415 - torch takes seconds and is not needed else

    return TorchDecoder(file.weights, threads=threads, progress=loaded)
