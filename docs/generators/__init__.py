"""Generators of the reference: one module per subject, each with functions that return Markdown.

They are not part of the distribution: they import every component, which nothing that is installed may do.
"""
