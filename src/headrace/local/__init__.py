"""Local mode: one instance on one machine, where children are processes.

The local cluster carries out Deployments, Jobs, Services, ConfigMaps and Secrets as a kubelet and its controllers
would, and writes the statuses that they would write; the rules above it cannot tell the difference.
"""
