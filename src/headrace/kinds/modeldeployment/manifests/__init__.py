"""The children as Kubernetes objects, one module per kind."""
