"""`headrace keys`: API keys of a namespace. A key is shown once; only its SHA-256 is stored, in a Secret."""

from __future__ import annotations

import argparse
import base64
import sys

from headrace.api.vocabulary import API_KEY_LABEL, GROUP
from headrace.cli import output
from headrace.cli.client import DEFAULT_NAMESPACE, ApiClient
from headrace.cli.targets import add_namespace, client_of
from headrace.errors import HeadraceError, InvalidResource, NotFound
from headrace.kinds.columns import AGE, NAME, Column, Object
from headrace.kinds.registry import KINDS
from headrace.routes.api_keys import digest_of, new_key

MODELS_ANNOTATION = f"{GROUP}/models"
"""On the Secret of a key that this command created: a copy of its `models` for display, because the API does not return
a Secret's values. Only the Secret's data grants access."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="create|list|revoke", title="actions")
    create = actions.add_parser("create", help="create a key and print it to standard output, once")
    create.add_argument("name", help="name of the key, e.g. the application's")
    create.add_argument("--model", action="append", default=[], help="allow this public model name only (repeatable)")
    listing = actions.add_parser("list", help="list the keys of a namespace")
    listing.add_argument("-A", "--all-namespaces", action="store_true", help="list all namespaces")
    revoke = actions.add_parser("revoke", help="revoke a key at once")
    revoke.add_argument("name")
    for level in (parser, create, listing, revoke):
        add_namespace(level)


def run(arguments: argparse.Namespace) -> int:
    """Run the action."""
    client = client_of(arguments)
    if arguments.action == "create":
        return _create(client, arguments.namespace, arguments.name, arguments.model)
    if arguments.action == "revoke":
        return _revoke(client, arguments.namespace, arguments.name)
    return _list(client, None if arguments.all_namespaces else arguments.namespace)


def _list(client: ApiClient, namespace: str | None) -> int:
    every = _keys(client, None)
    keys = [key for key in every if namespace in (None, key["metadata"]["namespace"])]
    if keys:
        print("\n".join(output.table(_COLUMNS if namespace else [output.NAMESPACE, *_COLUMNS], keys)))
    elif every:
        others = ", ".join(sorted({key["metadata"]["namespace"] for key in every}))
        print(f"no API keys in namespace {namespace}; namespaces with keys: {others} (`headrace keys list -A`)")
    else:
        print("no API keys" + (f" in namespace {namespace}" if namespace else ""))
    return 0


def _create(client: ApiClient, namespace: str, name: str, models: list[str]) -> int:
    try:
        existing = client.get(KINDS["Secret"], namespace, name)
    except NotFound:
        pass
    else:
        if not _is_key(existing):
            raise HeadraceError(f"the Secret {name!r} exists and is not an API key", hint="Choose another name")
        revoke = f"headrace keys revoke {name}{_option(namespace)}"
        raise HeadraceError(f"a key {name!r} exists already", hint=f"Choose another name, or `{revoke}`")
    first = not _keys(client, None)
    served = [output.public_name(model) for model in client.get(KINDS["ModelDeployment"], namespace)["items"]]
    key = new_key(namespace)
    data = {"sha256": digest_of(key)}
    metadata = {"name": name, "namespace": namespace, "labels": {API_KEY_LABEL: "true"}}
    if models:
        data["models"] = ",".join(models)
        metadata["annotations"] = {MODELS_ANNOTATION: data["models"]}
    secret = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": metadata,
        "type": "Opaque",
        "data": {field: base64.b64encode(value.encode()).decode() for field, value in data.items()},
    }
    try:
        client.apply(KINDS["Secret"], secret)
    except InvalidResource as error:
        raise _name_fault(name, error) from error
    print(key, flush=True)
    print("Store it: it is not shown again. Use it as the API key of an OpenAI client.", file=sys.stderr)
    if first:
        print("From now on every request needs a key: `headrace chat` reads it from HEADRACE_API_KEY.", file=sys.stderr)
    for model in models:
        if model not in served:
            known = f"models: {', '.join(sorted(served))}" if served else "it has none"
            print(f"warning: namespace {namespace} has no model {model!r} now ({known})", file=sys.stderr)
    return 0


def _name_fault(name: str, error: InvalidResource) -> InvalidResource:
    """Return an error about the key's name if the Secret was rejected because of it."""
    for cause in error.causes:
        if cause.field == "metadata.name":
            return InvalidResource(f"{name!r} is not a valid name of a key: it {cause.message}", causes=())
    return error


def _revoke(client: ApiClient, namespace: str, name: str) -> int:
    hint = f"`headrace keys list{_option(namespace)}` lists the keys"
    try:
        secret = client.get(KINDS["Secret"], namespace, name)
    except NotFound as error:
        raise NotFound(f"there is no key {name!r} in namespace {namespace!r}", hint=hint) from error
    if not _is_key(secret):
        raise NotFound(f"there is no key {name!r}: the Secret of that name is not an API key", hint=hint)
    client.delete(KINDS["Secret"], namespace, name)
    print(f"key {name} revoked")
    if not _keys(client, None):
        print(
            "That was the last key: requests from this machine need none again "
            "(with `headrace up --host` and an address that is not loopback, requests without a key are rejected)."
        )
    return 0


def _keys(client: ApiClient, namespace: str | None) -> list[Object]:
    """Return the keys of a namespace, or (None) of all. While any key exists, every request needs one."""
    return [secret for secret in client.get(KINDS["Secret"], namespace)["items"] if _is_key(secret)]


def _option(namespace: str) -> str:
    return "" if namespace == DEFAULT_NAMESPACE else f" -n {namespace}"


def _models(key: Object) -> str:
    """Return the models that a key gives access to; "some" for a Secret that another client created."""
    if "models" not in (key.get("data") or {}):
        return "all"
    return str(key["metadata"].get("annotations", {}).get(MODELS_ANNOTATION, "some"))


_COLUMNS = [NAME, Column("MODELS", _models), AGE]


def _is_key(secret: Object) -> bool:
    return API_KEY_LABEL in secret["metadata"].get("labels", {})
