"""An HTTPS origin on this machine, and a fetcher that trusts it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from sources.sources_fetcher import Fetcher
from sources.sources_origin import Authority, Origin, serving


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority.make(tmp_path_factory.mktemp("authority"))


@pytest.fixture
def origin(authority: Authority) -> Iterator[Origin]:
    with serving(authority) as origin:
        origin.content = bytes(range(256)) * 16_000  # 4 MB: several chunks
        yield origin


@pytest.fixture
def fetcher(authority: Authority, tmp_path: Path) -> Iterator[Fetcher]:
    fetcher = Fetcher(tmp_path / "models", tmp_path, {"SSL_CERT_FILE": str(authority.certificate)})
    yield fetcher
    fetcher.stop_all()
