"""Passwords, the kept set, settings: what needs no server."""

from __future__ import annotations

import base64
import hashlib
import hmac
from pathlib import Path

import pytest
from broker.broker_process import SECRETS

from headrace.broker import admission
from headrace.broker.admission import NamespacesRefused, checked
from headrace.broker.passwords import runtime_password
from headrace.broker.settings import Settings
from headrace.errors import CannotStart


def test_password_then_it_is_the_hmac_of_the_user_under_the_key() -> None:
    digest = hmac.new(b"key", b"runtime-team-a", hashlib.sha256).digest()
    assert runtime_password("key", "team-a") == base64.urlsafe_b64encode(digest).decode()


def test_password_when_key_or_namespace_differs_then_it_differs() -> None:
    assert len({runtime_password("k", "a"), runtime_password("k", "b"), runtime_password("l", "a")}) == 3


@pytest.mark.parametrize("wrong", ["*", ">", "a.b", "", "A", "-a", "a" * 64, "a\n"])
def test_checked_when_one_is_no_label_names_it(wrong: str) -> None:
    with pytest.raises(NamespacesRefused) as caught:
        checked(["good", wrong])
    assert repr(wrong) in str(caught.value)
    assert "good" not in str(caught.value)


def test_set_when_kept_is_loaded_again(tmp_path: Path) -> None:
    admission.keep(tmp_path, frozenset({"b", "a"}))
    assert admission.load(tmp_path) == {"a", "b"}


@pytest.mark.parametrize("text", ["", "{", "17", '["a", "*"]', "[1]"])
def test_set_when_its_file_is_damaged_is_empty(tmp_path: Path, text: str) -> None:
    (tmp_path / admission.FILE).write_text(text)
    assert admission.load(tmp_path) == frozenset()


@pytest.mark.parametrize("missing", SECRETS)
def test_settings_when_a_secret_is_missing_name_it(missing: str) -> None:
    with pytest.raises(CannotStart, match=missing):
        Settings.parse(["--store", "/data"], {**SECRETS, missing: ""})


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("0.0.0.0", "nats://127.0.0.1:4222"),
        ("::", "nats://[::1]:4222"),
        ("10.0.0.7", "nats://10.0.0.7:4222"),
        ("fd00::7", "nats://[fd00::7]:4222"),
    ],
)
def test_settings_when_it_listens_somewhere_then_it_finds_itself(host: str, url: str) -> None:
    settings = Settings.parse(["--host", host, "--store", "/data"], SECRETS)
    assert settings.own_url == url
    assert not [secret for secret in SECRETS.values() if secret in repr(settings)]
