"""Manifests of the children, one module per kind."""
