"""The emptyDir volumes of a pod and that of the node agent, as directories of this machine.

A local pod is a process on the machine's own file system, so nothing is mounted at a `mountPath`. Instead, each mount
path that the command, the arguments or the variables of the container contain is replaced by the path of the volume's
directory: with a volume mounted at `/cache`, `--cache=/cache/x` becomes `--cache=DIRECTORY/x`. A program that contains
the path itself does not find the volume. The data of Secrets and ConfigMaps is not changed. Paths below the home of
headrace and below Python's directories stay, even below a mount path such as `/tmp`: the command and the model's file
are there.

An emptyDir exists as long as its pod: restarts of the container keep it. `medium: Memory` is a directory as well, and
`sizeLimit` is not enforced. The inline CSI volume of the node agent is the directory of the namespace's socket, which
appears when the agent runs.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from headrace.api.vocabulary import NODE_DRIVER
from headrace.broker.config import LABEL
from headrace.control.world import ChildRefused
from headrace.local.fields import check_fields
from headrace.reconcile.world import Manifest

log = logging.getLogger(__name__)

_VOLUME_FIELDS = frozenset({"name", "emptyDir", "csi"})
_CSI_FIELDS = frozenset({"driver", "readOnly"})
_EMPTY_DIR_FIELDS = frozenset({"medium", "sizeLimit"})
_MOUNT_FIELDS = frozenset({"name", "mountPath", "readOnly"})
_PRIVATE = 0o700
_BEFORE_PATH = r"(?:(?<![\w.~*/)}\]-])|(?<=://))"
"""A path that continues another one, as in `$(HOME)/cache` or `https://example.com/cache`, is not a mount path."""
_AFTER_PATH = r"(?![\w.-])"


@dataclass(frozen=True, slots=True)
class Directories:
    """The directories of an instance, as far as its pods use them."""

    home: Path
    """That of headrace: models, and everything of every instance."""
    pods: Path
    """For the logs and volumes of pods alone."""
    agent: Path | None = None
    """With a directory for each namespace, which has the node agent's socket; None: there is no agent."""


def check_volumes(spec: Manifest) -> None:
    """Raise ChildRefused for a volume or a mount of a pod that local mode does not support."""
    names: set[str] = set()
    for index, volume in enumerate(spec.get("volumes", [])):
        path = f"spec.template.spec.volumes[{index}]"
        check_fields(volume, _VOLUME_FIELDS, path)
        name = volume.get("name")
        if not isinstance(name, str) or not LABEL.fullmatch(name):
            raise ChildRefused(f"{path}.name must be a DNS label", hint="Use lower-case letters, digits and dashes")
        _check_source(volume, path)
        _add(name, names, f"{path}.name")
    paths: set[str] = set()
    for index, mount in enumerate(spec["containers"][0].get("volumeMounts", [])):
        path = f"spec.template.spec.containers[0].volumeMounts[{index}]"
        check_fields(mount, _MOUNT_FIELDS, path)
        if mount.get("name") not in names:
            raise ChildRefused(f"{path}.name: the pod has no volume {mount.get('name')}", hint="Add it to spec.volumes")
        mount_path = mount.get("mountPath")
        if not isinstance(mount_path, str) or not mount_path.startswith("/") or not mount_path.strip("/"):
            raise ChildRefused(f"{path}.mountPath must be an absolute path below /", hint="Choose another path")
        _add("/" + mount_path.strip("/"), paths, f"{path}.mountPath")


def _check_source(volume: Manifest, path: str) -> None:
    if isinstance(volume.get("emptyDir"), dict):
        check_fields(volume["emptyDir"], _EMPTY_DIR_FIELDS, f"{path}.emptyDir")
    elif isinstance(volume.get("csi"), dict) and volume["csi"].get("driver") == NODE_DRIVER:
        check_fields(volume["csi"], _CSI_FIELDS, f"{path}.csi")
    else:
        raise ChildRefused(
            f"{path}.emptyDir is required",
            hint=f"Local mode supports no other volumes but csi with driver {NODE_DRIVER}",
        )


def _add(value: str, known: set[str], path: str) -> None:
    if value in known:
        raise ChildRefused(f"{path}: {value} is used twice", hint="Choose another one")
    known.add(value)


def make_volumes(spec: Manifest, directory: Path, home: Path, agent: Path | None = None) -> dict[str, Path]:
    """Make the pod's volumes in a directory that is the pod's own; return each mounted one by its mount path.

    The home of headrace and Python's directories are returned as mounted at themselves. `agent` is the directory of the
    node agent's volume; without one, that volume is an empty directory.
    """
    paths = {volume["name"]: directory / volume["name"] for volume in spec.get("volumes", [])}
    if agent is not None:
        paths |= {volume["name"]: agent for volume in spec.get("volumes", []) if "csi" in volume}
    for path in paths.values():
        if path.parent == directory:
            path.mkdir(parents=True, exist_ok=True)
    mounts = spec["containers"][0].get("volumeMounts", [])
    kept = (str(path).replace("$", "$$") for path in (home, Path(sys.prefix), Path(sys.base_prefix)))
    return {
        **{"/" + mount["mountPath"].strip("/"): paths[mount["name"]] for mount in mounts},
        **({path: Path(path) for path in kept} if mounts else {}),
    }


def remove_files(path: Path) -> None:
    """Remove a file or a directory of a pod, read-only directories included. What cannot be removed is logged."""
    try:
        if not path.is_dir() or path.is_symlink():
            path.unlink(missing_ok=True)
            return
        try:
            shutil.rmtree(path)
        except PermissionError:
            _make_writable(path)
            shutil.rmtree(path)
    except OSError as error:
        log.warning("cannot remove %s, which a pod left: %s", error.filename or path, error.strerror)


def _make_writable(directory: Path) -> None:
    directory.chmod(_PRIVATE)
    for parent, folders, _ in os.walk(directory):  # a folder is listed after its parent was made readable
        for folder in (Path(parent, name) for name in folders):
            if not folder.is_symlink():
                folder.chmod(_PRIVATE)


def replace_mount_paths(text: str, mounts: Mapping[str, Path]) -> str:
    """Replace each mount path in a word of the command, or in a variable, by the directory that is mounted there."""
    if not mounts:
        return text
    paths = "|".join(re.escape(path) for path in sorted(mounts, key=len, reverse=True))
    return re.sub(f"{_BEFORE_PATH}(?:{paths}){_AFTER_PATH}", lambda match: str(mounts[match[0]]), text)
