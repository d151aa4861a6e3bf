"""The LoRA adapters of an engine: which names requests may use, and which index of the decoder each has.

Adapters come and go while the engine runs. An unloaded one is no longer found by its name, and keeps its index until
the requests that use it have ended. Used on the event loop only; the decoder is changed between two steps.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from headrace.errors import HeadraceError, InvalidModel
from headrace.serving.errors import InvalidRequest, ModelNotFound
from headrace_models.adapters import Adapter, read_adapter
from headrace_models.config import DecoderConfig
from headrace_models.decoder import Decoder

MAX_ADAPTERS = 64
MAX_ADAPTER_BYTES = 1 << 30
"""Memory of all adapters. One of rank 16 for a model of a billion weights has about 50 MB."""

SetAdapter = Callable[[int, Adapter | None], asyncio.Future[None]]
"""`Decoder.set_adapter` between two steps; in the order of the calls."""


@dataclass(slots=True, eq=False)
class LoadedAdapter:
    """An adapter, from the request to load it until nothing uses it."""

    name: str
    index: int
    """Of `Segment.adapter`."""
    serial: int
    """Differs for all adapters that the engine ever had: a name or an index may be used again, with other weights."""
    nbytes: int = 0
    users: int = 0
    """Requests that run with it, or wait."""


class EngineAdapters:
    """Loads and unloads adapters, and counts their users."""

    def __init__(self, config: DecoderConfig, set_adapter: SetAdapter) -> None:
        self._config = config
        self._set = set_adapter
        self._named: dict[str, LoadedAdapter] = {}
        self._indexed: dict[int, LoadedAdapter] = {}
        """All whose memory is in use, the unloaded ones included."""
        self._serial = 0
        self._loading = asyncio.Lock()
        """One at a time is read, so that its memory is counted before the next one's."""

    @property
    def names(self) -> tuple[str, ...]:
        """The names that requests may use."""
        return tuple(self._named)

    async def load(self, name: str, path: Path) -> None:
        """Load an adapter. Raises InvalidRequest: the name is taken, it does not fit the model, or there is no room."""
        async with self._loading:
            loaded = self._new(name)
            try:
                adapter = await asyncio.to_thread(read_adapter, path, self._config)
                self._count(loaded, adapter)
                await self._set(loaded.index, adapter)
                self._named[name] = loaded
            except InvalidModel as error:
                raise InvalidRequest(error.message, param="path", hint=error.hint) from error
            finally:
                self._free_unused(loaded)  # unless it is named now

    def load_at_start(self, adapters: Mapping[str, Path], decoder: Decoder) -> None:
        """Load adapters before the engine's first step. Raises InvalidModel, naming the adapter."""
        for name, path in adapters.items():
            try:
                loaded = self._new(name)
                adapter = read_adapter(path, self._config)
                self._count(loaded, adapter)
            except HeadraceError as error:
                raise InvalidModel(f"adapter {name}: {error.message}", hint=error.hint) from error
            decoder.set_adapter(loaded.index, adapter)
            self._named[name] = loaded

    def unload(self, name: str) -> None:
        """Unload an adapter; its requests continue. Raises ModelNotFound."""
        loaded = self._find(name, param="name")
        del self._named[name]
        self._free_unused(loaded)

    def acquire(self, name: str) -> LoadedAdapter:
        """Return the adapter of a new request. Raises ModelNotFound."""
        loaded = self._find(name, param="model")
        loaded.users += 1
        return loaded

    def release(self, loaded: LoadedAdapter) -> None:
        """Note that a request has ended, after the engine's thread was told so."""
        loaded.users -= 1
        self._free_unused(loaded)

    def _new(self, name: str) -> LoadedAdapter:
        """Return an adapter with a free index."""
        if name in self._named:
            raise InvalidRequest(f"the adapter {name!r} is already loaded", param="name", hint="Unload it first")
        index = next((index for index in range(1, MAX_ADAPTERS + 1) if index not in self._indexed), None)
        if index is None:
            raise _no_room(f"{MAX_ADAPTERS} adapters")
        self._serial += 1
        loaded = self._indexed[index] = LoadedAdapter(name, index, self._serial)
        return loaded

    def _count(self, loaded: LoadedAdapter, adapter: Adapter) -> None:
        """Count the adapter's memory."""
        loaded.nbytes = adapter.nbytes
        if sum(each.nbytes for each in self._indexed.values()) > MAX_ADAPTER_BYTES:
            raise _no_room(f"{MAX_ADAPTER_BYTES >> 20} MiB of adapters")

    def _free_unused(self, loaded: LoadedAdapter) -> None:
        if not loaded.users and self._named.get(loaded.name) is not loaded:
            _ = self._set(loaded.index, None)  # in order: nothing waits for it
            del self._indexed[loaded.index]

    def _find(self, name: str, *, param: str) -> LoadedAdapter:
        loaded = self._named.get(name)
        if loaded is None:
            raise ModelNotFound(f"the adapter {name!r} is not loaded", param=param, hint="GET /v1/models lists them")
        return loaded


def _no_room(what: str) -> InvalidRequest:
    return InvalidRequest(f"no room: {what} are the maximum of a replica", param="name", hint="Unload one first")
