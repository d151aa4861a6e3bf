"""The volume by which a pod reaches the agent of its node, the same in both worlds.

For pods that need the agent, if there is one: the kubelet waits about 0.3 s for any volume, and does not start a pod
whose volume it cannot mount.
"""

from __future__ import annotations

from headrace.api.vocabulary import NODE_DRIVER
from headrace.environment import AGENT_SOCKET, AGENT_SOCKET_NAME
from headrace.reconcile.world import Manifest

VOLUME = "headrace-node"
MOUNT_PATH = "/run/headrace/node"


def mount_node_agent(spec: Manifest) -> Manifest:
    """Return a pod spec whose containers have the agent's socket and its path in `HEADRACE_AGENT_SOCKET`."""
    mount = {"name": VOLUME, "mountPath": MOUNT_PATH, "readOnly": True}
    variable = {"name": AGENT_SOCKET, "value": f"{MOUNT_PATH}/{AGENT_SOCKET_NAME}"}
    return {
        **spec,
        "volumes": [*spec.get("volumes", ()), {"name": VOLUME, "csi": {"driver": NODE_DRIVER, "readOnly": True}}],
        "containers": [
            {
                **container,
                "env": [*container.get("env", ()), variable],
                "volumeMounts": [*container.get("volumeMounts", ()), mount],
            }
            for container in spec["containers"]
        ],
    }
