"""From a pod's container to a command line and an environment, by Kubernetes' rules.

What has no meaning on one machine (images, resources, node selection, security contexts) is skipped by an explicit
list; what would have a meaning and is not carried out is refused by name.
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
from headrace.local.probes import PROBES, Probe
from headrace.reconcile.world import Manifest

Lookup = Callable[[str, str], Manifest | None]
"""Returns the ConfigMap or Secret (kind, name) of the pod's namespace."""

_POD_FIELDS = frozenset({"containers", "restartPolicy", "readinessGates", "terminationGracePeriodSeconds"})
_POD_SKIPPED = frozenset(
    {
        *("automountServiceAccountToken", "enableServiceLinks", "serviceAccountName", "securityContext"),
        *("nodeSelector", "tolerations", "affinity", "topologySpreadConstraints", "priorityClassName"),
        *("imagePullSecrets", "schedulerName", "runtimeClassName", "dnsPolicy", "hostname", "subdomain"),
    }
)
"""Where and under which guard a pod runs: on one machine, as its user."""
_CONTAINER_FIELDS = frozenset(
    {
        *("name", "command", "args", "env", "envFrom", "ports", "terminationMessagePolicy"),
        *PROBES,
    }
)
_CONTAINER_SKIPPED = frozenset({"image", "imagePullPolicy", "resources", "securityContext", "stdin", "tty"})
_INHERITED = re.compile(
    r"HOME|USER|LANG|LC_.*|TZ|TMPDIR|PIP_.*|SSL_CERT_.*|REQUESTS_CA_BUNDLE|(?i:https?_proxy|no_proxy|all_proxy)"
    r"|OMP_.*|MKL_.*|OPENBLAS_.*|NVPL_.*|CUDA_.*|LD_LIBRARY_PATH|HEADRACE_LIFE|XDG_.*"
)
"""What a child gets of our own environment: what describes the machine, and nothing else of the user's."""
_REFERENCE = re.compile(r"\$(?:\$|\(([^)]*)\))")


class ConfigError(Exception):
    """A container that cannot be made: it refers to something that does not exist (yet)."""


@dataclass(frozen=True, slots=True)
class Launch:
    """What to execute."""

    command: list[str]
    variables: dict[str, str]


def check_pod_spec(spec: Manifest) -> None:
    """Raise ChildRefused for a pod that a process on this machine could not be."""
    check_fields(spec, _POD_FIELDS | _POD_SKIPPED, "spec.template.spec")
    containers = spec.get("containers", [])
    if len(containers) != 1:
        raise ChildRefused(f"a pod of {len(containers)} containers cannot run here", hint="Local pods have one")
    check_fields(containers[0], _CONTAINER_FIELDS | _CONTAINER_SKIPPED, "spec.template.spec.containers[0]")
    if not containers[0].get("command"):
        raise ChildRefused("a container without a command cannot run here", hint="Images are not used locally")
    for name in PROBES:
        if name in containers[0]:
            Probe.of(containers[0][name], containers[0].get("ports", []))


def check_fields(part: Manifest, known: frozenset[str], path: str) -> None:
    """Raise ChildRefused for a field that is not known: it would not be obeyed."""
    for field in part:
        if field not in known:
            raise ChildRefused(f"{path}.{field} cannot be carried out on this machine", hint="Use a cluster for it")


def launch_of(pod: Manifest, lookup: Lookup) -> Launch:
    """Return what to execute for the pod. Raises ConfigError when it refers to what does not exist."""
    container = pod["spec"]["containers"][0]
    variables = {name: value for name, value in os.environ.items() if _INHERITED.fullmatch(name)}
    own = str(Path(sys.executable).parent)
    variables["PATH"] = f"{own}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
    defined: dict[str, str] = {}
    for source in container.get("envFrom", []):
        defined.update(_all_of(source, lookup))
    for variable in container.get("env", []):
        if "valueFrom" not in variable:
            defined[variable["name"]] = expanded(variable.get("value", ""), defined)
        elif (value := _value_from(variable["valueFrom"], pod, lookup)) is not None:
            defined[variable["name"]] = value
    words = [expanded(word, defined) for word in (*container["command"], *container.get("args", []))]
    return Launch(words, {**variables, **defined})


def expanded(text: str, variables: Mapping[str, str]) -> str:
    """Replace `$(NAME)` by the variable's value; an unknown one stays, and `$$` is a dollar sign."""

    def replace(match: re.Match[str]) -> str:
        name = match[1]
        if name is None:
            return "$"
        return variables.get(name, match[0])

    return _REFERENCE.sub(replace, text)


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
    raise ConfigError(f"a variable from {', '.join(source)} cannot be had on this machine")


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
