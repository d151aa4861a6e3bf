"""Measures the node agent: hand-overs by each transport, round trips of a descriptor, crashes, start and restart.

`--exclusive` runs the processes at real-time priority, for a machine with other jobs; the churn is not timed and runs
without. Each figure has its best and its median; bars use the best, which other jobs disturb least.
"""

from __future__ import annotations

import argparse
import socket
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from bars import bar, environment
from nodes import agents, handovers, payloads, roundtrips
from nodes.handovers import PAYLOAD, STORE, STREAM, UNARY, UNIX
from nodes.processes import STORE_OPTIONS, Agent

from headrace.payloads.payload import SHARED_FROM_BYTES

MEGABYTES = (1, 10, 100, 1000)
BAR_MEGABYTES = 100
CYCLES = 100_000
THP = Path("/sys/kernel/mm/transparent_hugepage/shmem_enabled")


def main() -> None:
    """Measure, and print the bars."""
    sections: dict[str, Callable[[argparse.Namespace], None]] = {
        "handover": _handover,
        "roundtrip": _roundtrip,
        "payload": _payload,
        "agent": _agent,
        "churn": _churn,
    }
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--exclusive", action="store_true", help="real-time priority (needs root)")
    parser.add_argument("--parts", nargs="*", default=list(sections), choices=sections)
    parser.add_argument("--cycles", type=int, default=CYCLES, help=f"of the churn (default {CYCLES})")
    parser.add_argument("--megabytes", type=int, nargs="*", default=MEGABYTES, choices=handovers.REPEATS)
    options = parser.parse_args()
    environment()
    if THP.exists():
        print(f"transparent huge pages of shared memory: {THP.read_text().strip()}", flush=True)
    for name in options.parts:
        sections[name](options)


@contextmanager
def _started(*extra: str, exclusive: bool) -> Iterator[tuple[Agent, Path]]:
    with (
        tempfile.TemporaryDirectory() as directory,
        Agent(Path(directory), *STORE_OPTIONS, *extra, exclusive=exclusive) as agent,
    ):
        yield agent, Path(directory)


def _handover(options: argparse.Namespace) -> None:
    with _started(exclusive=options.exclusive) as (agent, directory):
        for megabytes in options.megabytes:
            results = handovers.measure(agent, directory, megabytes, exclusive=options.exclusive)
            if megabytes == BAR_MEGABYTES:
                _compare(results)


def _compare(results: Mapping[str, handovers.Measured]) -> None:
    """Print the bars of payloads, and the same ratios of sealed objects."""
    cpu, wall = ({name: min(getattr(each, what)) for name, each in results.items()} for what in ("cpu", "wall"))
    print(
        f"sealed objects: CPU time {cpu[UNARY] / cpu[STORE]:.1f}x below {UNARY}, {cpu[STREAM] / cpu[STORE]:.1f}x below"
        f" {STREAM}, wall time {wall[UNIX] / wall[STORE]:.2f}x below {UNIX}",
        flush=True,
    )
    for name in (UNARY, STREAM):
        bar(f"node_cpu_below_{name}", cpu[name] / cpu[PAYLOAD], 10, "x", at_least=True)
    bar("node_wall_below_unix", wall[UNIX] / wall[PAYLOAD], 2.5, "x", at_least=True)


def _roundtrip(options: argparse.Namespace) -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    with _started("--metrics-port", str(port), exclusive=options.exclusive) as (agent, _):
        best = roundtrips.measure(agent, port, exclusive=options.exclusive)
    for path in ("unix", "sockmap"):
        bar(f"node_descriptor_{path}_by_tcp", best[path] / best["tcp"], 0.6, "x")
        bar(f"node_descriptor_{path}_by_relay", best[path] / best["relay"], 0.35, "x")
    bar("node_ebpf_adds", best["sockmap"] - best["unix"], 1, "us")


def _payload(options: argparse.Namespace) -> None:
    with _started(exclusive=options.exclusive) as (agent, _):
        results = payloads.measure(agent, exclusive=options.exclusive)
    for size, ways in results.items():
        cheaper = [what for column, what in enumerate(("wall", "CPU")) if ways["shared"][column] < ways["http"][column]]
        print(f"body {size} KiB: shared memory takes less {' and less '.join(cheaper) or 'of nothing'}", flush=True)
    bar("node_payload_pays_from", payloads.pays_from(results), SHARED_FROM_BYTES / payloads.KIBIBYTE, "KiB")


def _agent(options: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory() as directory:
        seconds, resident = agents.starts(Path(directory), exclusive=options.exclusive)
        lost = agents.lost_at_restart(Path(directory))
    bar("node_agent_start", max(seconds), 1, "s")
    bar("node_agent_resident", resident / 1e6, 60, "MB")
    bar("node_agent_lost_objects", lost, 0, "")


def _churn(options: argparse.Namespace) -> None:
    with _started(exclusive=False) as (agent, _):
        leaked = agents.churn(agent, options.cycles)
    bar("node_churn_leaked_bytes", leaked.bytes, 0, "")
    bar("node_churn_leaked_descriptors", leaked.descriptors, 0, "")
    bar("node_churn_leaked_map_entries", leaked.map_entries, 0, "")


if __name__ == "__main__":
    main()
