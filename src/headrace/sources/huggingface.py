"""hf://ORGANISATION/REPOSITORY[@REVISION][/PATH]: a model of the Hugging Face hub, or one file of it.

The hub and the token are those of the environment (`HF_ENDPOINT`, `HF_TOKEN`). A model's directory is its files beside
one another that a runtime reads: safetensors, JSON, chat templates and text; weights in other formats are left out. A
revision is resolved to its commit first, so all files are of one commit.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

from headrace.errors import SourceUnreachable
from headrace.sources.remote import RemoteFile
from headrace.sources.transfer import CHUNK_BYTES, Interrupted, Readable

if TYPE_CHECKING:
    from huggingface_hub import HfApi

TIMEOUT_SECONDS = 30
MAX_FILES = 1000
_READ = re.compile(r"[^/]+\.(safetensors|json|jinja|txt|model)")
_BUSY = frozenset({408, 429, 500, 502, 503, 504})
_OK, _PARTIAL = 200, 206


def hf_files(uri: str) -> list[RemoteFile]:
    """Return the file, or the files of the model's directory. Raises SourceUnreachable."""
    import httpx2  # noqa: PLC0415 - it comes with the library
    from huggingface_hub import HfApi  # noqa: PLC0415 - the extra `sources`, needed for this scheme alone
    from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError  # noqa: PLC0415 - as above

    organisation, name, *path = uri.removeprefix("hf://").split("/")
    repository, _, revision = name.partition("@")
    api, repository = HfApi(), f"{organisation}/{repository}"
    try:
        info = api.model_info(repository, revision=revision or None, files_metadata=True, timeout=TIMEOUT_SECONDS)
    except RepositoryNotFoundError as error:
        raise SourceUnreachable(
            f"{uri} does not exist or needs a token", hint="Set HF_TOKEN, or check the URI"
        ) from error
    except (HfHubHTTPError, httpx2.HTTPError, OSError) as error:
        raise _failed(uri, error) from error
    siblings = {each.rfilename: each for each in info.siblings or []}
    names = ["/".join(path)] if path else [name for name in siblings if _READ.fullmatch(name)]
    missing = [name for name in names if name not in siblings]
    if missing or not 0 < len(names) <= MAX_FILES:
        raise SourceUnreachable(
            f"{uri} has {len(names) - len(missing)} files of a model", hint=f"It has: {', '.join(sorted(siblings)[:5])}"
        )
    return [
        RemoteFile(
            path=name.rpartition("/")[2],
            size=siblings[name].size or 0,
            version=f"{info.sha} {siblings[name].blob_id}",
            open=_opener(uri, api, repository, str(info.sha), name),
        )
        for name in names
    ]


def _opener(
    uri: str, api: HfApi, repository: str, commit: str, name: str
) -> Callable[[int], AbstractContextManager[Readable]]:
    from huggingface_hub import get_session, get_token, hf_hub_url  # noqa: PLC0415 - as above

    url = hf_hub_url(repository, name, revision=commit, endpoint=api.endpoint)

    @contextlib.contextmanager
    def opened(start: int) -> Iterator[Readable]:
        headers = {
            "Accept-Encoding": "identity",
            **_authorization(get_token()),
            **({"Range": f"bytes={start}-"} if start else {}),
        }
        import httpx2  # noqa: PLC0415 - as above, with which it comes

        try:
            with get_session().stream("GET", url, headers=headers, follow_redirects=True) as response:
                if response.status_code != (_PARTIAL if start else _OK):
                    raise _refused(uri, name, response.status_code)
                yield _Chunks(response.iter_raw(CHUNK_BYTES))
        except (OSError, httpx2.HTTPError) as error:
            raise _failed(uri, error) from error

    return opened


def _authorization(token: str | None) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"} if token else {}


class _Chunks:
    """Chunks as a readable."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks

    def read1(self, _size: int, /) -> bytes:
        return next(self._chunks, b"")


def _refused(uri: str, name: str, status: int) -> SourceUnreachable:
    kind = Interrupted if status in _BUSY else SourceUnreachable
    return kind(f"{uri}: the hub answers {status} for {name}", hint="Check HF_TOKEN and the URI")


def _failed(uri: str, error: Exception) -> Interrupted:
    return Interrupted(f"{uri}: {str(error).partition(chr(10))[0][:300]}", hint="Check HF_ENDPOINT; it is retried")
