"""A whole instance on a full disk, under an unusual path, and with unusual names."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import yaml
from disks import fill, small_disk
from local.local_instance import SECONDS, SUSPENDED, Up, get, models, until

from headrace.cli.client import ApiClient
from headrace.cli.main import main
from headrace.errors import NoSpace
from headrace.kinds.columns import condition
from headrace.kinds.registry import KINDS

MODELS = KINDS["ModelDeployment"]
PUBLIC_NAME = "org/llama3.1:8b"


def changed(*, metadata: dict[str, Any] | None = None, model: dict[str, Any] | None = None) -> dict[str, Any]:
    """Return the suspended model with something else."""
    manifest: dict[str, Any] = deepcopy(SUSPENDED)
    manifest["metadata"] |= metadata or {}
    manifest["spec"]["model"] |= model or {}
    return manifest


def status_of(client: ApiClient) -> dict[str, Any]:
    status: dict[str, Any] = client.get(MODELS, "default", "resting").get("status", {})
    return status


@pytest.mark.parametrize(
    "name", ["Zoë 中", "two words", "q'u\"o", "$$ $(HOME) $x", "{a} #b %20 \\c", "long/" * 40], ids=str
)
def test_up_when_home_has_an_unusual_path_works(start: Callable[..., Up], root: Path, name: str) -> None:
    """NATS's configuration, a pod's arguments, the socket of the API: each has characters of its own, or a limit."""
    weights = root / "weights.gguf"
    weights.write_bytes(b"weights")
    up = start(home=root / name).wait_until_up()
    up.client.apply(MODELS, changed(model={"source": {"uri": weights.as_uri()}}))
    source = until(lambda: status_of(up.client).get("source"), "the file is fetched")
    assert (up.home.models / source["path"]).read_bytes() == b"weights"
    up.client.shutdown()
    assert up.ended()[0] == 0


def test_fetch_when_disk_is_too_small_condition_names_the_need(start: Callable[..., Up], root: Path) -> None:
    weights = root / "weights.gguf"
    with weights.open("wb") as sparse:
        sparse.truncate(20 * 1024 * 1024)
    with small_disk(root / "disk", 16 * 1024):
        up = start(home=root / "disk").wait_until_up()
        up.client.apply(MODELS, changed(model={"source": {"uri": weights.as_uri()}}))

        def cached() -> dict[str, Any]:
            return condition(up.client.get(MODELS, "default", "resting"), "ModelCached")

        until(lambda: cached().get("reason") == "NoSpace", "the fetch has failed")
        assert f"no space in {up.home.models}/" in cached()["message"]
        assert "20971520 bytes are needed" in cached()["message"]
        up.process.kill()


def test_up_when_the_disk_fills_up_then_it_goes_on(start: Callable[..., Up], root: Path) -> None:
    """What runs goes on, what is asked for is refused with the cause, and all is well when there is room again."""
    file = root / "model.yaml"
    file.write_text(yaml.safe_dump(SUSPENDED))
    with small_disk(root / "disk", 16 * 1024):
        up = start("-f", str(file), home=root / "disk").wait_until_up()
        filler = fill(up.home.root)
        large = changed(metadata={"name": "large", "annotations": {"x": "x" * 100_000}})
        with pytest.raises(NoSpace, match=r"state\.sqlite: No space left on device"):
            up.client.apply(MODELS, large)
        assert models(up.endpoint) == ["resting"]
        filler.unlink()
        up.client.apply(MODELS, large)
        until(lambda: models(up.endpoint) == ["large", "resting"], "the new model is listed")
        up.client.shutdown()
        code, said = up.ended()
        assert (code, "Traceback" in said) == (0, False), said


@pytest.mark.parametrize("path", [PUBLIC_NAME, "org%2Fllama3.1%3A8b"])
def test_public_name_with_colon_and_slash_is_found(
    start: Callable[..., Up],
    root: Path,
    path: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """By the list, the card, a request, and a key that opens this model alone."""
    monkeypatch.setenv("HEADRACE_HOME", str(root))
    up = start().wait_until_up()
    up.client.apply(MODELS, changed(model={"name": PUBLIC_NAME}))
    up.client.apply(MODELS, changed(metadata={"name": "other"}))
    until(lambda: models(up.endpoint) == [PUBLIC_NAME, "other"], "both are listed")
    assert json.loads(get(f"{up.endpoint}/v1/models/{path}"))["id"] == PUBLIC_NAME
    assert main(["keys", "create", "app", "--model", PUBLIC_NAME]) == 0
    said = capsys.readouterr()
    key = said.out.splitlines()[0]
    assert "warning" not in said.err  # that there is no such model

    def asked(model: str) -> int:
        headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
        body = json.dumps({"model": model, "messages": [{"role": "user", "content": "Hello!"}]}).encode()
        request = urllib.request.Request(f"{up.endpoint}/v1/chat/completions", body, headers)
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(request, timeout=SECONDS)
        return refused.value.code

    until(lambda: asked(PUBLIC_NAME) == 503, "the key is known, and the model is suspended")
    assert asked("other") == 404
