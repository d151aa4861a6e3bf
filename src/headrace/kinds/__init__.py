"""The kinds of resource that headrace has: a package for each, and the registry."""
