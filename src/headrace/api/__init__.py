"""What every kind of resource shares: kinds, schemas, rules, and the constants of the API.

The command line imports `kinds` and `vocabulary`, so these two do not import pydantic, which is slow to load.
"""
