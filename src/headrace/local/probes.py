"""Probes of a container, as a kubelet runs them: a periodic HTTP GET or TCP connection."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from headrace.control.world import ChildRefused
from headrace.reconcile.world import Manifest

STARTUP, READINESS, LIVENESS = "startupProbe", "readinessProbe", "livenessProbe"
PROBES = (STARTUP, READINESS, LIVENESS)
"""The fields of a container that have them."""
_TIMES = frozenset({"initialDelaySeconds", "periodSeconds", "timeoutSeconds", "successThreshold", "failureThreshold"})
_TARGETS = {"httpGet": frozenset({"path", "port"}), "tcpSocket": frozenset({"port"})}
_LARGEST_STATUS_LINE = 1024
_OK = range(200, 400)


@dataclass(frozen=True, slots=True)
class Probe:
    """One probe with Kubernetes' defaults."""

    path: str | None
    """None: a TCP connection is sufficient."""
    port: int
    initial_delay: float
    period: float
    timeout: float
    success_threshold: int
    failure_threshold: int

    @classmethod
    def of(cls, manifest: Manifest, ports: list[Manifest]) -> Probe:
        """Return the probe of a container with these ports. Raises ChildRefused for an unsupported probe."""
        kind = "httpGet" if "httpGet" in manifest else "tcpSocket"
        target = manifest.get(kind, {})
        unknown = (manifest.keys() - _TIMES - {kind}) | (target.keys() - _TARGETS[kind])
        if unknown or not target:
            raise ChildRefused(
                f"local mode does not support a probe with {', '.join(sorted(unknown)) or 'no handler'}",
                hint="Use httpGet with path and port, or tcpSocket with port",
            )
        named = {port.get("name"): port["containerPort"] for port in ports}
        port = named.get(target["port"], target["port"])
        if not isinstance(port, int):
            raise ChildRefused(
                f"a probe refers to the port {port}, which the container does not have", hint="Add it to ports"
            )
        return cls(
            path=target.get("path", "/") if kind == "httpGet" else None,
            port=port,
            initial_delay=manifest.get("initialDelaySeconds", 0),
            period=manifest.get("periodSeconds", 10),
            timeout=manifest.get("timeoutSeconds", 1),
            success_threshold=manifest.get("successThreshold", 1),
            failure_threshold=manifest.get("failureThreshold", 3),
        )

    async def watch(self, host: str, changed: Callable[[bool], None]) -> None:
        """Probe until cancelled; call `changed` with each new result that has reached its threshold."""
        await asyncio.sleep(self.initial_delay)
        state: bool | None = None
        run, last = 0, None
        while True:
            answer = await self.once(host)
            run = run + 1 if answer == last else 1
            last = answer
            if answer != state and run >= (self.success_threshold if answer else self.failure_threshold):
                state = answer
                changed(answer)
            await asyncio.sleep(self.period)

    async def once(self, host: str) -> bool:
        """Return whether one probe succeeds."""
        try:
            async with asyncio.timeout(self.timeout):
                reader, writer = await asyncio.open_connection(host, self.port, limit=_LARGEST_STATUS_LINE)
                try:
                    return self.path is None or await self._get(host, reader, writer)
                finally:
                    writer.close()
        except (OSError, ValueError, IndexError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            return False

    async def _get(self, host: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        request = f"GET {self.path} HTTP/1.1\r\nHost: {host}:{self.port}\r\nUser-Agent: headrace-probe\r\n"
        writer.write(f"{request}Connection: close\r\n\r\n".encode())
        status_line = await reader.readuntil(b"\r\n")
        return int(status_line.split()[1]) in _OK
