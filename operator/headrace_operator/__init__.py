"""The operator: headrace on Kubernetes. A kopf adapter around the reconcile loop that local mode uses too."""
