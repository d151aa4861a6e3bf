"""Loading of a model: the choice of its decoder, in a thread that a server starts before its own imports."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from enum import StrEnum
from importlib.util import find_spec
from pathlib import Path
from typing import Protocol

from headrace.agent.errors import AgentError
from headrace.environment import AGENT_SOCKET
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


@dataclass(frozen=True, slots=True)
class LoadedDecoder:
    """A decoder, and the node's store that has its weights, which must stay open as long."""

    decoder: Decoder
    store: Store | None
    kept_weights: str = ""
    """Name of the object in the store that has the weights; empty: they are in memory of this process."""


class DecoderOpener(Protocol):
    """Makes the decoder of a model: `load_decoder`, or one of another runtime on this engine."""

    def __call__(
        self,
        file: ModelFile,
        *,
        dtype: DType,
        threads: int,
        progress: Progress,
        store: Store | None,
        on_kept: Callable[[str], object],
    ) -> Decoder:
        """Return the decoder; call `on_kept` with the name of the object that has its weights, if one has.

        Raises InvalidModel, CannotStart.
        """


class ModelLoading:
    """A model that a thread loads: reading and packing take no part of the interpreter's time that imports need.

    The thread is a daemon: a process that must stop does not wait for it.
    """

    def __init__(self, path: Path, *, dtype: DType, threads: int, opener: DecoderOpener | None = None) -> None:
        self._opener = opener or load_decoder
        self._lock = threading.Lock()
        """Guards the next two."""
        self._stage: tuple[str, int | None] = ("reading-model", None)
        self._listener: Progress | None = None
        self._file: Future[ModelFile] = Future()
        self._decoder: Future[LoadedDecoder] = Future()
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

    def decoder(self) -> LoadedDecoder:
        """Wait for the decoder. Raises InvalidModel, CannotStart."""
        return self._decoder.result()

    def join(self) -> None:
        """Wait for the thread: a normal exit of the interpreter must not interrupt it in a library's native code."""
        self._thread.join()

    def _run(self, path: Path, dtype: DType, threads: int) -> None:
        waiting: Future[ModelFile] | Future[LoadedDecoder] = self._file
        try:
            file = ModelFile.open(path)
            self._file.set_result(file)
            waiting = self._decoder
            store, kept = node_store(), list[str]()
            decoder = self._opener(
                file, dtype=dtype, threads=threads, progress=self._progress, store=store, on_kept=kept.append
            )
            self._decoder.set_result(LoadedDecoder(decoder, store, "".join(kept)))
        except Exception as error:  # noqa: BLE001 - carried to who waits, whatever it is
            waiting.set_exception(error)

    def _progress(self, stage: str, percent: int | None) -> None:
        with self._lock:
            self._stage = (stage, percent)
            if self._listener is not None:
                self._listener(stage, percent)


def load_decoder(
    file: ModelFile,
    *,
    dtype: DType,
    threads: int,
    progress: Progress,
    store: Store | None = None,
    on_kept: Callable[[str], None] = lambda _: None,
) -> Decoder:
    """Return a decoder with the model's weights, mapped from the store if one is given.

    `on_kept` is called with the name of the object that has them there.

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
    kept = None if store is None else KeptWeights(store, begin)
    packer: Packer = pack if kept is None else kept
    if kept is None:
        begin(stage)
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
        if kept is not None and kept.name:
            on_kept(kept.name)
        return decoder
    progress("loading-torch", None)
    from headrace_models.torch_decoder import TorchDecoder  # noqa: PLC0415 - torch takes seconds and is not needed else

    return TorchDecoder(file.weights, threads=threads, progress=loaded)


def node_store() -> Store | None:
    """Return the object store of this node; None if the pod has no volume of the node agent, or no agent runs."""
    path = os.environ.get(AGENT_SOCKET)
    if not path:
        return None
    try:
        return Store(Path(path))
    except AgentError as error:
        log.warning("the weights are loaded for this process alone: %s", error)
        return None
