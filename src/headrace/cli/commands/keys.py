"""`headrace keys`: API keys of a namespace. A key is shown once; what is kept is its SHA-256, in a Secret."""

from __future__ import annotations

import argparse
import base64
import hashlib
import secrets

from headrace.api.kinds import KINDS
from headrace.api.vocabulary import API_KEY_LABEL
from headrace.cli import output
from headrace.cli.client import DEFAULT_NAMESPACE, ApiClient
from headrace.cli.targets import add_namespace, client_of
from headrace.errors import HeadraceError, NotFound

KEY_PREFIX = "hr-"
KEY_BYTES = 32
"""256 bits: the hash of such a key cannot be searched, so it needs no salt and no slow hash."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    actions = parser.add_subparsers(dest="action", required=True)
    create = actions.add_parser("create", help="make a key and print it, once")
    create.add_argument("name", help="a name for it, e.g. the application's")
    create.add_argument("--model", action="append", default=[], help="only this public model name (repeatable)")
    listing = actions.add_parser("list", help="list the keys of a namespace")
    revoke = actions.add_parser("revoke", help="make a key useless, at once")
    revoke.add_argument("name")
    for action in (create, listing, revoke):
        add_namespace(action)


def run(arguments: argparse.Namespace) -> int:
    """Carry out the action."""
    client = client_of(arguments)
    if arguments.action == "create":
        return _create(client, arguments.namespace, arguments.name, arguments.model)
    if arguments.action == "revoke":
        return _revoke(client, arguments.namespace, arguments.name)
    keys = [secret for secret in client.get(KINDS["Secret"], arguments.namespace)["items"] if _is_key(secret)]
    if not keys:
        print(f"no API keys in namespace {arguments.namespace}")
        return 0
    print("\n".join(output.table(output.columns_of(KINDS["Secret"], wide=False, all_namespaces=False), keys)))
    return 0


def _create(client: ApiClient, namespace: str, name: str, models: list[str]) -> int:
    try:
        client.get(KINDS["Secret"], namespace, name)
    except NotFound:
        pass
    else:
        raise HeadraceError(
            f"a secret named {name} exists", hint=f"Choose another name, or `headrace keys revoke {name}`"
        )
    key = KEY_PREFIX + secrets.token_urlsafe(KEY_BYTES)
    data = {"sha256": hashlib.sha256(key.encode()).hexdigest()}
    if models:
        data["models"] = ",".join(models)
    client.apply(
        KINDS["Secret"],
        {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": name, "namespace": namespace, "labels": {API_KEY_LABEL: "true"}},
            "type": "Opaque",
            "data": {field: base64.b64encode(value.encode()).decode() for field, value in data.items()},
        },
    )
    print(key)
    print("Keep it: it is not shown again. Use it as the API key of an OpenAI client.")
    return 0


def _revoke(client: ApiClient, namespace: str, name: str) -> int:
    option = "" if namespace == DEFAULT_NAMESPACE else f" -n {namespace}"
    hint = f"`headrace keys list{option}` lists what is there"
    try:
        secret = client.get(KINDS["Secret"], namespace, name)
    except NotFound as error:
        raise NotFound(f"there is no key {name!r} in namespace {namespace!r}", hint=hint) from error
    if not _is_key(secret):
        raise NotFound(f"secret {name} is not an API key", hint=hint)
    client.delete(KINDS["Secret"], namespace, name)
    print(f"key {name} revoked")
    return 0


def _is_key(secret: output.Object) -> bool:
    return API_KEY_LABEL in secret["metadata"].get("labels", {})
