"""Local mode: one instance on one machine, where children are processes.

The local cluster runs Deployments, DaemonSets and Jobs, and keeps Services, ConfigMaps and Secrets, as a kubelet and
the controllers of Kubernetes do. It writes the same statuses, so the reconcile rules are the same in both worlds.
"""
