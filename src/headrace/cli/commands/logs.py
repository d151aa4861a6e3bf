"""`headrace logs`: print the log of a model's pod."""

from __future__ import annotations

import argparse
import sys

from headrace.api import vocabulary as v
from headrace.cli.client import ApiClient
from headrace.cli.targets import Target, UnknownKind, add_namespace, client_of, count, target_of
from headrace.errors import NotFound
from headrace.kinds.columns import condition
from headrace.kinds.registry import KINDS, RESOURCE_KINDS

_AT_ZERO = frozenset({v.IDLE, v.SCALED_TO_ZERO, v.SUSPENDED})


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("target", nargs=1, metavar="NAME", help="one ModelDeployment, or pod/NAME")
    parser.set_defaults(words="target")
    add_namespace(parser)
    parser.add_argument("-f", "--follow", action="store_true", help="follow the log until Ctrl-C")
    parser.add_argument("-p", "--previous", action="store_true", help="log of the container's previous run")
    parser.add_argument("--tail", type=count, metavar="LINES", help="only the last lines")
    parser.add_argument("--fetch", action="store_true", help="log of the fetch Job")


def run(arguments: argparse.Namespace) -> int:
    """Print the log."""
    client = client_of(arguments)
    target = target_of(arguments.target)
    assert target.name is not None
    if target.kind.kind == "Pod":
        pod = target.name
    else:
        pod = newest_pod(client, arguments.namespace, target, fetches=arguments.fetch)
    chunks = client.logs(
        arguments.namespace, pod, follow=arguments.follow, tail=arguments.tail, previous=arguments.previous
    )
    for chunk in chunks:
        sys.stdout.buffer.write(chunk)
        sys.stdout.buffer.flush()
    return 0


def newest_pod(client: ApiClient, namespace: str, target: Target, *, fetches: bool) -> str:
    """Return the name of the newest pod that fetches for the resource, or of the others, and print which it is."""
    resource, name = RESOURCE_KINDS.get(target.kind.kind), str(target.name)
    if resource is None or not resource.has_pods:
        raise UnknownKind(f"{target.kind.plural} have no log", hint="Give mdep/NAME or pod/NAME")
    pods = [
        pod
        for pod in client.get(KINDS["Pod"], namespace)["items"]
        if pod["metadata"].get("labels", {}).get(resource.label) == name
        and (pod["metadata"]["labels"].get(v.COMPONENT_LABEL) == v.COMPONENT_FETCH) == fetches
    ]
    if not pods:
        obj = client.get(target.kind, namespace, name)  # raises NotFound if the name was mistyped
        component, type_ = (v.COMPONENT_FETCH, v.MODEL_CACHED) if fetches else (v.COMPONENT_RUNTIME, v.READY)
        reason = condition(obj, type_).get("reason", v.PENDING)
        why = f": it is scaled to zero ({reason})" if reason in _AT_ZERO else f" ({reason})"
        named = f"{(*target.kind.short_names, target.kind.singular)[0]}/{name}"
        raise NotFound(f"{name} has no {component} pod now{why}", hint=f"`headrace describe {named}` shows why")
    pods.sort(key=lambda pod: str(pod["metadata"]["creationTimestamp"]), reverse=True)
    newest, *others = [str(pod["metadata"]["name"]) for pod in pods]
    if others:
        print(f"log of pod/{newest}, the newest; other pods: {', '.join(others)}", file=sys.stderr)
    return newest
