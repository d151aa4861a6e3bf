"""The command and the environment of a pod's container, by Kubernetes' rules.

Fields without a meaning on one machine (images, resources, node selection, security contexts) are ignored, by an
explicit list. Every other field that local mode does not support is refused by name.
"""

from __future__ import annotations

import base64
import os
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from headrace.control.world import ChildRefused
from headrace.environment import SOURCES_SECRET, expanded
from headrace.local.fields import check_fields
from headrace.local.node import node_name
from headrace.local.probes import PROBES, Probe
from headrace.local.variables import source_variables
from headrace.local.volumes import check_volumes, replace_mount_paths
from headrace.reconcile.world import Manifest

Lookup = Callable[[str, str], Manifest | None]
"""Returns the ConfigMap or Secret (kind, name) of the pod's namespace."""

_POD_FIELDS = frozenset(
    {
        *("containers", "nodeName", "readinessGates", "restartPolicy", "terminationGracePeriodSeconds", "volumes"),
    }
)
_POD_SKIPPED = frozenset(
    {
        *("automountServiceAccountToken", "enableServiceLinks", "serviceAccountName", "securityContext"),
        *("nodeSelector", "tolerations", "affinity", "topologySpreadConstraints", "priorityClassName"),
        *("imagePullSecrets", "schedulerName", "runtimeClassName", "dnsPolicy", "hostname", "subdomain"),
    }
)
"""Where and with which rights a pod runs: on this machine, as the user of the instance."""
_CONTAINER_FIELDS = frozenset(
    {
        *("name", "command", "args", "env", "envFrom", "ports", "terminationMessagePolicy", "volumeMounts"),
        *PROBES,
    }
)
_CONTAINER_SKIPPED = frozenset({"image", "imagePullPolicy", "resources", "securityContext", "stdin", "tty"})
_INHERITED = re.compile(
    r"HOME|USER|LANG|LC_.*|TZ|TMPDIR|PIP_.*|SSL_CERT_.*|REQUESTS_CA_BUNDLE"
    r"|(?i:https?_proxy|no_proxy|all_proxy)"
    r"|OMP_.*|MKL_.*|OPENBLAS_.*|NVPL_.*|CUDA_.*|LD_LIBRARY_PATH|HEADRACE_LIFE|XDG_.*"
)
"""The variables that a pod inherits from the instance: those that describe the machine."""


class ConfigError(Exception):
    """A container that cannot be created: it refers to an object that does not exist (yet)."""


@dataclass(frozen=True, slots=True)
class Launch:
    """The command of a process and its environment."""

    command: list[str]
    variables: dict[str, str]


def check_pod_spec(spec: Manifest) -> None:
    """Raise ChildRefused for a pod that local mode does not support."""
    check_fields(spec, _POD_FIELDS | _POD_SKIPPED, "spec.template.spec")
    if (node := spec.get("nodeName")) not in (None, "", node_name()):
        raise ChildRefused(
            f"spec.template.spec.nodeName: there is no node {node}", hint=f"The only one is {node_name()}"
        )
    containers = spec.get("containers", [])
    if len(containers) != 1:
        raise ChildRefused(
            f"a pod has {len(containers)} containers", hint="Local mode supports pods with one container"
        )
    check_fields(containers[0], _CONTAINER_FIELDS | _CONTAINER_SKIPPED, "spec.template.spec.containers[0]")
    if not containers[0].get("command"):
        raise ChildRefused("a container without a command", hint="Set command: local mode does not run images")
    check_volumes(spec)
    for name in PROBES:
        if name in containers[0]:
            Probe.of(containers[0][name], containers[0].get("ports", []))


def launch_of(pod: Manifest, lookup: Lookup, mounts: Mapping[str, Path]) -> Launch:
    """Return the command and environment of the pod's container.

    Raises ConfigError when it refers to an object that does not exist.

    Args:
        pod: the pod with its `status.podIP`.
        lookup: finds ConfigMaps and Secrets.
        mounts: the directory of each mounted volume, by mount path.
    """
    container = pod["spec"]["containers"][0]
    given: dict[str, str] = {}
    if any(source.get("secretRef", {}).get("name") == SOURCES_SECRET for source in container.get("envFrom", [])):
        given = source_variables()  # those of the Secret take precedence
    defined: dict[str, str] = {}
    for source in container.get("envFrom", []):
        defined.update(_all_of(source, lookup))
    for variable in container.get("env", []):
        if "valueFrom" not in variable:
            defined[variable["name"]] = expanded(replace_mount_paths(variable.get("value", ""), mounts), defined)
        elif (value := _value_from(variable["valueFrom"], pod, lookup)) is not None:
            defined[variable["name"]] = value
    words = (*container["command"], *container.get("args", []))
    command = [expanded(replace_mount_paths(word, mounts), defined) for word in words]
    return Launch(command, {**machine_variables(), **given, **defined})


def machine_variables() -> dict[str, str]:
    """Return the variables of any pod, those that describe the machine."""
    variables = {name: value for name, value in os.environ.items() if _INHERITED.fullmatch(name)}
    own = str(Path(sys.executable).parent)
    return {**variables, "PATH": f"{own}{os.pathsep}{os.environ.get('PATH', os.defpath)}"}


def _value_from(source: Manifest, pod: Manifest, lookup: Lookup) -> str | None:
    if "fieldRef" in source:
        return _field(pod, source["fieldRef"]["fieldPath"])
    for reference, kind in (("secretKeyRef", "Secret"), ("configMapKeyRef", "ConfigMap")):
        if reference in source:
            wanted = source[reference]
            found = _data(kind, lookup(kind, wanted["name"])).get(wanted["key"])
            if found is None and not wanted.get("optional"):
                raise ConfigError(f"couldn't find key {wanted['key']} in {kind} {wanted['name']}")
            return found
    raise ConfigError(f"local mode does not support a variable from {', '.join(source)}")


def _all_of(source: Manifest, lookup: Lookup) -> dict[str, str]:
    for reference, kind in (("secretRef", "Secret"), ("configMapRef", "ConfigMap")):
        if reference in source:
            found = lookup(kind, source[reference]["name"])
            if found is None and not source[reference].get("optional"):
                raise ConfigError(f"{kind} {source[reference]['name']} not found")
            return {source.get("prefix", "") + name: value for name, value in _data(kind, found).items()}
    return {}


def _data(kind: str, manifest: Manifest | None) -> dict[str, str]:
    if manifest is None:
        return {}
    data = manifest.get("data") or {}
    if kind == "ConfigMap":
        return dict(data)
    return {name: base64.b64decode(value).decode() for name, value in data.items()}


def _field(pod: Manifest, path: str) -> str:
    value: Any = pod
    label = re.fullmatch(r"metadata\.(labels|annotations)\['(.+)'\]", path)
    if label is not None:
        return str(pod["metadata"].get(label[1], {}).get(label[2], ""))
    for step in path.split("."):
        value = value.get(step) if isinstance(value, dict) else None
    if value is None:
        raise ConfigError(f"the pod has no field {path}")
    return str(value)
