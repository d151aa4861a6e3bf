"""`headrace describe`: the details of a resource with its conditions, pods and events."""

from __future__ import annotations

import argparse

from headrace.cli import output
from headrace.cli.client import ApiClient
from headrace.cli.targets import Target, add_namespace, add_target, client_of, for_each, targets_of
from headrace.kinds.columns import Column, Object, age
from headrace.kinds.registry import KINDS, RESOURCE_KINDS

LAST_EVENTS = 20


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    add_target(parser)
    add_namespace(parser)


def run(arguments: argparse.Namespace) -> int:
    """Describe each resource."""
    client = client_of(arguments)
    targets = targets_of(arguments.target)

    def describe(target: Target) -> None:
        obj = client.get(target.kind, arguments.namespace, target.name)
        if target is not targets[0]:
            print()
        _describe(client, target, obj)

    return for_each(targets, describe)


def _describe(client: ApiClient, target: Target, obj: Object) -> None:
    metadata, status = obj["metadata"], obj.get("status", {})
    print(f"Name:       {metadata['name']}")
    print(f"Namespace:  {metadata['namespace']}")
    print(f"Kind:       {obj['kind']} ({obj['apiVersion']})")
    print(f"Age:        {age(metadata.get('creationTimestamp'))}")
    print("\nSpec:")
    print(_indented(output.dump(obj.get("spec", {}), "yaml")))
    rest = {key: value for key, value in status.items() if key != "conditions"}
    if rest:
        print("\nStatus:")
        print(_indented(output.dump(rest, "yaml")))
    if status.get("conditions"):
        print("\nConditions:")
        print(_indented("\n".join(output.table(_CONDITION_COLUMNS, status["conditions"]))))
    resource = RESOURCE_KINDS.get(target.kind.kind)
    if resource is not None and resource.has_pods:
        _describe_pods(client, metadata["namespace"], resource.label, metadata["name"])
    _describe_events(client, metadata["namespace"], obj)


_CONDITION_COLUMNS = [
    Column("TYPE", lambda c: str(c["type"])),
    Column("STATUS", lambda c: str(c["status"])),
    Column("REASON", lambda c: str(c.get("reason", ""))),
    Column("SINCE", lambda c: age(c.get("lastTransitionTime"))),
    Column("MESSAGE", lambda c: str(c.get("message", ""))),
]


def _describe_pods(client: ApiClient, namespace: str, label: str, name: str) -> None:
    pods = [
        pod
        for pod in client.get(KINDS["Pod"], namespace)["items"]
        if pod["metadata"].get("labels", {}).get(label) == name
    ]
    print("\nPods:")
    columns = output.columns_of(KINDS["Pod"], wide=True, all_namespaces=False)
    print(_indented("\n".join(output.table(columns, pods)) if pods else "none"))


def _describe_events(client: ApiClient, namespace: str, obj: Object) -> None:
    events = [
        event
        for event in client.get(KINDS["Event"], namespace)["items"]
        if event.get("involvedObject", {}).get("name") == obj["metadata"]["name"]
        and event["involvedObject"].get("kind") == obj["kind"]
    ]
    events.sort(key=output.last_seen)
    print("\nEvents:")
    columns = output.columns_of(KINDS["Event"], wide=False, all_namespaces=False)
    print(_indented("\n".join(output.table(columns, events[-LAST_EVENTS:])) if events else "none"))


def _indented(text: str) -> str:
    return "\n".join(f"  {line}" for line in text.splitlines())
