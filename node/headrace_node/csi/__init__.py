"""The CSI driver `node.headrace.dev`: inline ephemeral volumes that hold the node agent's socket.

A pod's volume is a directory with one Unix socket, whose tenant is the pod's namespace. The agent creates the directory
and listens; this service, a process of its own, mounts the directory into the pod. The mount is the reason why its
container is privileged, and why nothing else runs in it.
"""
