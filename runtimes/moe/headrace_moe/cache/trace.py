"""Traces of routings: what each layer of each step needed, and what was predicted for the next layer.

A file is an npz without pickle: `layers` [records], `tokens` [records], `experts` [sum of tokens, used], `predicted`
(the lists one after another) with `predicted_counts` [records], and `header`, JSON with the model and the sizes.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from headrace.errors import InvalidModel

MAX_RECORDS = 10_000_000


@dataclass(frozen=True, slots=True)
class TraceHeader:
    """The model of a trace."""

    model: str
    layers: int
    experts: int
    used: int
    expert_bytes: int


@dataclass(frozen=True, slots=True)
class Record:
    """A layer of a step."""

    layer: int
    experts: NDArray[np.int16]
    """[tokens, used]"""
    predicted: Sequence[int]
    """For the next layer, likeliest first."""


class TraceRecorder:
    """Collects records in memory."""

    def __init__(self, header: TraceHeader) -> None:
        self._header = header
        self._records: list[Record] = []

    def add(self, layer: int, experts: NDArray[np.int32], predicted: Sequence[int]) -> None:
        """Add a record, up to the bound of a trace; later ones are dropped."""
        if len(self._records) < MAX_RECORDS:
            self._records.append(Record(layer, experts.astype(np.int16), predicted))

    def trace(self) -> Trace:
        """Return what was recorded."""
        return Trace(self._header, self._records)


@dataclass(frozen=True, slots=True)
class Trace:
    """A recorded run."""

    header: TraceHeader
    records: Sequence[Record]

    def __iter__(self) -> Iterator[Record]:
        return iter(self.records)

    def write(self, path: Path) -> None:
        """Write the trace to a file."""
        records = self.records
        with path.open("wb") as file:
            np.savez_compressed(
                file,
                header=np.frombuffer(json.dumps(asdict(self.header)).encode(), dtype=np.uint8),
                layers=np.array([each.layer for each in records], dtype=np.int16),
                tokens=np.array([len(each.experts) for each in records], dtype=np.int32),
                experts=np.concatenate([each.experts for each in records]),
                predicted=np.array([expert for each in records for expert in each.predicted], dtype=np.int16),
                predicted_counts=np.array([len(each.predicted) for each in records], dtype=np.int16),
            )

    @classmethod
    def read(cls, path: Path) -> Trace:
        """Read a file. Raises InvalidModel if it is no trace."""
        try:
            with np.load(path, allow_pickle=False) as file:
                header = TraceHeader(**json.loads(file["header"].tobytes()))
                experts = np.split(file["experts"], np.cumsum(file["tokens"])[:-1])
                predicted = np.split(file["predicted"], np.cumsum(file["predicted_counts"])[:-1])
                layers = file["layers"].tolist()
        except (OSError, KeyError, ValueError, TypeError) as error:
            raise InvalidModel(f"{path.name} is no trace: {error}", hint="`headrace-moe trace` writes one") from error
        rows = zip(layers, experts, predicted, strict=True)
        return cls(header, [Record(layer, each, likely.tolist()) for layer, each, likely in rows])
