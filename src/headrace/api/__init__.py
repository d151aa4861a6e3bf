"""The resources: pydantic models that are the single source of the CRDs, and the words of the API.

Import-light on purpose: the command line uses `kinds` and `vocabulary` and must not wait for pydantic.
"""
