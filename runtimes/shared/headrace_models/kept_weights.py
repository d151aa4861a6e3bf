"""Packed weights that outlive the process: in the object store of the node, where later processes map them.

They have a name there, the SHA-256 of what determines them: the files of the model by device, inode, size and time of
change (as make and rsync compare files; a digest would read them whole, which takes longer than packing), the type of
the weights, and the sources of the native library, which define the layout. The bytes are those of `pack`, so a decoder
computes the same. Processes of one tenant trust each other's objects; the header and every tensor are checked as usual.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path

from headrace.agent.errors import AgentError
from headrace.store.client import Draft, Store
from headrace.store.keys import ObjectClass
from headrace_models.native.build import library_path
from headrace_models.native.packing import Packing, WeightType, config_digest, pack
from headrace_models.weights import ModelWeights

log = logging.getLogger(__name__)


class WeightStage(StrEnum):
    """What loading does; a stage of the replica, as it is reported."""

    LOADING = "loading-weights"
    """Packs them into memory of this process alone: without a store, or if it is full."""
    STORING = "storing-weights"
    """Packs them into the store."""
    WAITING = "waiting-for-weights"
    """Another process packs them into the store."""
    MAPPING = "mapping-weights"
    """They are in the store."""


class KeptWeights:
    """The packed weights of one model; implements `headrace_models.native.packing.Packer`.

    Args:
        store: a session with the store, which must stay open as long as the weights are used: it has their lease.
        on_stage: called with each stage.
    """

    def __init__(self, store: Store, on_stage: Callable[[WeightStage], None]) -> None:
        self._store = store
        self._on_stage = on_stage
        self.name = ""
        """Name of the object with the weights; empty until they are in the store."""

    def __call__(
        self, weights: ModelWeights, *, threads: int, weight_type: WeightType, progress: Callable[[int], None]
    ) -> memoryview:
        """Map the packed weights, after packing them into the store if they are not there."""
        packing, name = Packing.of(weights, weight_type), weights_name(weights, weight_type)
        try:
            item = self._store.obtain(
                ObjectClass.WEIGHTS,
                packing.nbytes,
                name,
                waiting=lambda: self._on_stage(WeightStage.WAITING),
            )
            if isinstance(item, Draft):
                self._on_stage(WeightStage.STORING)
                with item as draft:
                    packing.fill(draft.memory, threads, progress)
                    item = draft.seal()
            else:
                self._on_stage(WeightStage.MAPPING)
        except AgentError as error:
            log.warning("the weights are loaded for this process alone: %s", error)
            self._on_stage(WeightStage.LOADING)
            return pack(weights, threads=threads, weight_type=weight_type, progress=progress)
        self.name = name
        return item.memory


def weights_name(weights: ModelWeights, weight_type: WeightType) -> str:
    """Return the name of packed weights in the store. Raises OSError."""
    path = weights.path
    files = sorted(path.glob("*.safetensors*")) if path.is_dir() else [path]
    parts = [library_path().name, weight_type.value, config_digest(weights.config).hex(), *map(_identity, files)]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _identity(path: Path) -> str:
    found = path.stat()
    return f"{found.st_dev} {found.st_ino} {found.st_size} {found.st_mtime_ns}"
